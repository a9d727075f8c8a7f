#!/usr/bin/env python3
"""The page of `sparkhawk serve`, in a real browser: every check is a sentence that holds. Whatever the console reports as an error,
violations of the Content-Security-Policy among it, and every request to elsewhere fails the test during which it came."""
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import time
import urllib.request

sys.dont_write_bytecode = True
from harness import check, conversation, main  # noqa: E402

HOSTILE = r"""# Heading <script>window.pwned = 1</script>

<img src=x onerror="window.pwned = 2"> <b onclick="window.pwned = 3">bold</b> <iframe src="https://evil.example"></iframe>

[plain](javascript:window.pwned=4) [mixed](JaVaScRiPt:window.pwned=5) [data](data:text/html,<script>window.pwned=6</script>)
[entity](java&#115;cript:window.pwned=7) [tab](java<TAB>script:window.pwned=8) [ours](https://example.com/a_(b))
<https://example.org/x>
<javascript:window.pwned=9> ![picture](https://evil.example/x.png) [blob](blob:x) [file](file:///etc/passwd) [relative](/v1/models)

| a | b |
|---|:-:|
| <svg onload=window.pwned=10> | `<script>window.pwned=11</script>` |

```html
<script>window.pwned = 12</script>
```

<a href="javascript:window.pwned=13">link</a> &lt;script&gt;window.pwned = 14&lt;/script&gt;
""".replace("<TAB>", "\t")
IS_TEXT = ["<script>window.pwned = 1</script>", '<img src=x onerror="window.pwned = 2">', "[plain](javascript:window.pwned=4)",
           "<svg onload=window.pwned=10>", "<script>window.pwned = 12</script>", '<a href="javascript:window.pwned=13">',
           "<script>window.pwned = 14</script>"]

RICH = """## Title *one*

Some **bold**, *slanted*, ***both***, ~~gone~~, `co``de` and snake_case_name, 2 * 3 * 4, **unclosed and https://example.com/x).

1. one
   - nested
     with more
2. two

   a paragraph
5) other list

> quote
> > deeper
> - list in it

| left | right |
|:-----|------:|
| a \\| b | **1** |
| c |

- [x] done
- [ ] open

```python
def f(x):  # comment
    return "text" + 42
```

~~~
plain
"""
SHAPES = ["<h3>Title <em>one</></>", "<strong>bold</>", "<em>slanted</>", "<del>gone</>", "<code>co``de</>", "snake_case_name",
          "2 * 3 * 4", "**unclosed and <a>https://example.com/x</>).",
          "<ol><li><p>one</><ul><li><p>nested<br></>with more</></></></><li><p>two</><p>a paragraph</></>",
          "<blockquote><p>quote</><blockquote><p>deeper</></><ul><li><p>list in it</></></></>", "<th>left</><th>right</>",
          "<td>a | b</><td><strong>1</></>", "<td>c</><td></>", "<li><p>done</></><li><p>open</></>",
          "<span>def</> <span>f</>(x):  <span># comment</>", '<span>return</> <span>"text"</> + <span>42</>', "<code>plain\n</>"]

# beginnings that nothing ends, and what is slow to read for a reader that looks back or ahead too far
ENDLESS = ["*a **b _c ", "[", "[a](", "[a](b ", "``` ``", "> ", "- ", "  - a\n", "|", "a|b\n-|-\n", "![", "<", "https://", "\\",
           "**", "_a_", "&", "# ", "a\n", "1. a\n\n", "`a``", "*a*", "~~a", "](", "a*",
           "*a ] ", "*a b_ "]

PIECES = ["\n", "\n", "\n\n", " ", "    ", "a", "b c", "*", "**", "_", "~~", "`", "```", "```py\n", "> ", "- ", "1. ", "# ",
          "[", "](", "](", ")", "https://x.y/", "javascript:a", "<b>", "<script>", "<br>", "&lt;", "\\", "|", "|-|-|\n",
          "| a | b |\n", "---\n", "[x] ", "é", "\u200d", "🦅", "\t", "!", '"']


def said(*texts):
    return [{"role": "assistant" if i % 2 else "user", "text": text} for i, text in enumerate(texts)]


def test_streaming(page):
    page.fresh()
    check("a new visitor is welcomed", page.text("#welcome h2") == "What shall we talk about?")
    check("the model's name is shown", page.text("#model") == "model")
    page.say("What does the hawk see?")
    check("what was said is shown", page.wait("probe.$('.said')?.textContent === 'What does the hawk see?'"))
    check("the answer ends", page.idle())
    kept = page.kept()
    check("the conversation is kept", [m["role"] for m in kept["messages"]] == ["user", "assistant"])
    check("with its text", len(kept["messages"][1]["text"]) > 50)
    check("the address names it", page.run("location.hash") == "#" + kept["id"])
    check("the answer is told to ears", page.run("probe.$('#announce').textContent.length") > 50)
    check("the message box is empty and has the focus", page.run("probe.focus() + document.activeElement.value") == "text")
    page.say("And then?")
    page.idle()
    check("a conversation goes on", len(page.kept()["messages"]) == 4)
    page.reload()
    check("and is there after a reload", page.count("article") == 4)


def test_stats(page):
    page.fresh()
    page.say("Count your neurons")
    page.idle()
    check("the strip has a bar for each layer", page.count(".strip i") == 4)
    words = page.text(".words")
    told = "% of neurons active · " in words and " tokens/s · state " in words
    check("the line tells the share of neurons, the speed and the state", told, words)
    shares = page.kept()["messages"][1]["stats"]["active"]
    check("every layer of a spark model skips neurons", all(0 < share < 0.6 for share in shares), shares)
    page.click(".meter summary")
    check("it opens to a map", page.wait("probe.$('.map').height === 4 && probe.$('.map').width >= 24"))
    pixels = page.run("probe.$('.map').getContext('2d').getImageData(0, 0, 20, 4).data.filter((x) => x).length")
    check("which is drawn", pixels > 200, pixels)
    check("and to the sizes of the state and of a cache", page.count(".size") == 2 and "transformer" in page.text(".sizes"))
    page.reload()
    check("the figures are there after a reload", page.text(".words") == words and page.count(".strip i") == 4)


def test_dense_stats(page):
    page.fresh()
    stats = {"tok_s": 3.25, "active": [None, None], "state_bytes": 999, "cache_bytes": 2e6}
    chunk = {"choices": [{"delta": {"content": "x"}}], "stats": stats}
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}], "stats": stats}
    body = f"data: {json.dumps(chunk)}\n\ndata: {json.dumps(end)}\n\ndata: [DONE]\n\n"
    with page.answering("/v1/chat/completions", 200, body, {"Content-Type": "text/event-stream"}):
        page.say("Dense?")
        page.idle()
    words = page.text(".words")
    check("of a dense model speed and sizes are shown", words == "3.3 tokens/s · state 999 B · a cache would be 2.00 MB", words)
    check("and no strip", page.run("probe.$('.strip').hidden"))
    page.click(".meter summary")
    check("and no map", page.wait("probe.$$('.size').length === 2") and page.run("probe.$('.heat').hidden"))


def test_stop_edit_regenerate(page):
    page.fresh(settings={"max_tokens": 100000})
    page.endless()
    page.run("probe.watch()")
    page.say("Talk for ever")
    check("an answer grows step by step", page.wait("probe.lengths.filter((n, i, all) => n > all[i - 1]).length >= 3"))
    check("while it writes there is a stop button alone", page.run("!probe.$('#stop').hidden && probe.$('#send').hidden"))
    page.click("#stop")
    check("it stops", page.wait("probe.$('#stop').hidden", 3))
    check("and says so", page.text(".note") == "Stopped.")
    length = page.run("probe.$('.prose').textContent.length")
    time.sleep(0.3)
    check("nothing more comes", page.run("probe.$('.prose').textContent.length") == length)
    page.run("probe.keep('settings', { max_tokens: 40, temperature: 1 })")
    page.click(".again")
    page.idle()
    first = page.kept()["messages"]
    check("regenerating replaces the answer", len(first) == 2 and first[1]["text"])
    page.click(".again")
    page.idle()
    check("by another one", page.kept()["messages"][1]["text"] != first[1]["text"])
    page.say("Second")
    page.idle()
    page.click(".user .tools button")
    check("editing shows the message", page.run("probe.$('.editor textarea').value") == "Talk for ever")
    page.press("Escape")
    check("Escape leaves it as it was", page.count(".editor") == 0 and page.count("article") == 4)
    page.click(".user .tools button")
    page.type(" and ever")
    page.press("Enter")
    page.idle()
    kept = page.kept()["messages"]
    check("sending an edited message drops what followed it", [len(kept), kept[0]["text"]] == [2, "Talk for ever and ever"])


def test_settings(page):
    page.fresh(settings={"max_tokens": 1024, "seed": None})
    page.click("#settings-open")
    check("the dialog opens", page.run("probe.$('#settings').open"))
    want = {"temperature": 0.25, "top_p": 0.5, "top_k": 12, "min_p": 0.05, "seed": 77, "max_tokens": 9}
    for name, value in want.items():
        page.run(f"probe.write('[name={name}]', '{value}')")
    page.run("probe.write('[name=system]', 'Be a hawk.')")
    check("the slider follows the number", page.run("probe.$('[data-for=temperature]').value") == "0.25")
    page.run("probe.write('[name=top_p]', '7')")
    check("what is out of range is told", page.run("!probe.$('[name=top_p]').validity.valid"))
    page.press("Escape")
    page.reload()
    page.click("#settings-open")
    found = {name: float(page.run(f"probe.$('[name={name}]').value")) for name in want}
    check("settings persist, and none that is out of range", found == want, found)
    check("the system prompt, too", page.run("probe.$('[name=system]').value") == "Be a hawk.")
    page.press("Escape")
    page.run("probe.spy()")
    page.say("Go")
    page.idle()
    sent = page.run("probe.sent[0]")
    check("the server gets them", {name: sent.get(name) for name in want} == want, sent)
    check("with the system prompt first", sent["messages"][0] == {"role": "system", "content": "Be a hawk."})
    page.click("#settings-open")
    page.click("#defaults")
    back = page.run("probe.kept('settings')")
    check("there is a way back", [back["temperature"], back["seed"], back["system"]] == [1, None, ""])
    page.press("Escape")


def test_conversations(page):
    messages = said("Hi", "Hello **you**")
    page.fresh([conversation(messages, "First", "one"), conversation(messages, "Second", "two"),
                conversation([], "<b>Third</b>", "three")])
    check("the list has all of them", page.count(".entry") == 3 and "<b>Third</b>" in page.text("#list"))
    page.click("a[href='#two']")
    check("one can be opened", page.wait("document.title === 'Second · Sparkhawk'") and page.text(".prose strong") == "you")
    page.click(".entry:has(a[href='#two']) button")
    page.wait("document.activeElement === probe.$('.entry input')")
    page.run("probe.write('.entry input', 'Renamed')")
    page.press("Enter")
    check("and renamed", page.text("#title") == page.text("a[href='#two']") == page.kept()["title"] == "Renamed")
    page.click(".entry:has(a[href='#two']) button:last-child")
    check("and deleted", page.wait("probe.$$('.entry').length === 2 && !probe.$('article')"))
    check("with everything that was kept of it", page.run("probe.kept('chat.two')") is None)
    page.click(".toast button")
    check("which can be undone", page.wait("location.hash === '#two' && probe.$$('article').length === 2"))
    page.run("probe.nextFile()")
    page.click("#export")
    text = page.run("probe.file")
    check("all are exported", sorted(c["title"] for c in json.loads(text)["conversations"]) == ["<b>Third</b>", "First", "Renamed"])

    def give(text):
        page.run(f"probe.$('#toast').replaceChildren(), probe.giveFile({json.dumps(text)})")
        page.wait("probe.$('.toast')")
        return page.text(".toast")

    page.fresh()
    check("and imported", "3 conversations" in give(text) and page.count(".entry") == 3)
    for wrong in ("{", "[]", '{"sparkhawk": 1, "conversations": [{"messages": [{"role": "user", "text": 5}]}]}'):
        check(f"{wrong} is not", "could not be imported" in give(wrong) and page.count(".entry") == 3)
    page.click("a[href='#one']")
    page.wait("probe.$$('article').length === 2")
    page.click("#new")
    check("a new one is empty", page.wait("!probe.$('article') && !probe.$('#welcome').hidden"))
    page.run("history.back()")
    check("and the browser's way back leads to the old one", page.wait("probe.$$('article').length === 2"))


def test_two_at_a_time(page):
    page.fresh([conversation(said("Hi", "Yes"), "Other", "other")], settings={"max_tokens": 100000})
    page.endless()
    page.say("Talk on")
    page.wait("probe.$('.prose')?.textContent.length > 20")
    first = page.run("location.hash")
    page.click("a[href='#other']")
    check("another conversation can be looked at meanwhile", page.wait("document.title.startsWith('Other')"))
    check("nothing is written there", page.run("probe.$$('.prose')[0].textContent") == "Yes" and page.count(".writing") == 0)
    check("the answer can be stopped from there", not page.run("probe.$('#stop').hidden"))
    page.click(f".entry:has(a[href='{first}']) button")
    page.wait("document.activeElement === probe.$('.entry input')")
    page.run("probe.write('.entry input', 'Mine')")
    page.press("Enter")
    page.click(f"a[href='{first}']")
    length = page.run("probe.$('.prose').textContent.length")
    check("the answer goes on", page.wait(f"probe.$('.writing .prose').textContent.length > {length}"))
    check("and the name that was given meanwhile stays", page.text("#title") == "Mine")
    page.click(f".entry:has(a[href='{first}']) button:last-child")
    check("who deletes the conversation stops it", page.wait("probe.$('#stop').hidden && !probe.$('article')", 3))
    time.sleep(0.2)
    check("and it stays deleted", page.run(f"probe.kept('chat.{first[1:]}')") is None and page.count(".entry") == 1)


def test_markdown(page):
    page.fresh([conversation(said("<b>bold?</b>", HOSTILE)), conversation(said("x", RICH), "Rich", "rich")], path="/#kept")
    page.wait("probe.$('.prose')")
    page.run("probe.$$('.prose :not(a, button, button *)').forEach((e) => e.click?.())")
    check("nothing hostile runs", page.run("window.pwned") is None)
    strange = page.count(".prose :is(script, img, iframe, svg:not(.icon), b, [onclick], [onerror], [onload])")
    check("nothing hostile becomes an element", strange == 0)
    links = page.run("probe.$$('.prose a').map((a) => a.href)")
    want = ["https://evil.example/", "https://example.com/a_(b)", "https://example.org/x", "https://evil.example/x.png"]
    check("links lead to http and https alone", links == want, links)
    apart = "a.target === '_blank' && a.rel.includes('noopener') && a.rel.includes('noreferrer')"
    check("and tell nobody where they were", page.run(f"probe.$$('.prose a').every((a) => {apart})"))
    shown = page.run("probe.$('.prose').textContent")
    for part in IS_TEXT:
        check(f"{part} is text", part in shown)
    check("and so is what the user wrote", page.run("probe.$('.said').textContent") == "<b>bold?</b>")

    page.run("location.hash = 'rich'")
    page.wait("document.title.startsWith('Rich')")
    shape = page.run("probe.shape(probe.$('.prose'))")
    for part in SHAPES:
        check(f"markdown: {part}", part in shape, shape)
    check("both slanted and bold", "<em><strong>both</></>" in shape or "<strong><em>both</></>" in shape, shape)
    check("numbers stand right", page.run("probe.style('td.right', 'textAlign')") == "right")
    check("tasks have boxes", page.run("probe.$$('.task input').map((box) => box.checked)") == [True, False])
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"], origin=page.origin)
    page.click("figure.code button")
    check("code is copied", page.wait("probe.$('#announce').textContent === 'Copied'") and
          page.run("navigator.clipboard.readText()") == 'def f(x):  # comment\n    return "text" + 42')
    page.run("delete Object.getPrototypeOf(navigator).clipboard; probe.$('#announce').textContent = ''")
    page.click("figure.code button")
    check("also where the page is not secure", page.wait("probe.$('#announce').textContent === 'Copied'"))


def test_markdown_grows(page):
    page.fresh()
    dice = random.Random(1)
    texts = [RICH, HOSTILE] + ["".join(dice.choices(PIECES, k=40)) for _ in range(1000)]
    wrong = page.run(f"probe.wrong({json.dumps(texts)})")
    check("a text that comes in pieces ends as it does at once, and no text makes what it may not", wrong == [], wrong)
    with page.counting():
        page.fresh()
        for text in ENDLESS:
            # sixteen times the length: sixteen times the work, or 256 times it where a reader looks back; between the two is 64
            short, long = (page.work(f"probe.repeat({json.dumps(text)}, {n})") for n in (5000, 80000))
            check(f"the work to show {text!r} again and again grows with its length", long < 64 * short, [short, long])


def test_appearance(page):
    page.fresh()
    back = "probe.style('body', 'backgroundColor')"
    light = page.run(back)
    page.prefers(color_scheme="dark")
    dark = page.run(back)
    check("dark follows the system", light != dark)
    page.click("#theme")
    check("the button goes to the other one", page.run(back) == light and page.run("probe.kept('settings').theme") == "light")
    page.reload()
    check("which stays", page.run(back) == light)
    page.press("Alt+d")
    check("and back", page.run(back) == dark)
    page.prefers(color_scheme="light", reduced_motion="reduce")
    moving = page.run("probe.$$('*').filter((e) => !/^(0s,? ?)+$/.test(getComputedStyle(e).transitionDuration)).length")
    check("nothing moves for those who want it so", moving == 0, moving)
    page.fresh([conversation(said("Hi", RICH))], path="/#kept")
    page.wait("probe.$('.prose')")
    for theme in ("light", "dark"):
        page.run(f"document.documentElement.dataset.theme = '{theme}'")
        for selector in (".said", ".prose p", ".prose a", ".prose code", ".comment", ".string", ".keyword", ".number", ".call",
                         "blockquote p", "#model", "#list h2", ".entry a", "figcaption span", ".hint", ".hint button"):
            ratio = page.run(f"probe.contrast({json.dumps(selector)})")
            check(f"{selector} can be read in {theme}", ratio >= 4.5, ratio)


def test_phone(page):
    columns = "|".join(f" column number {i} " for i in range(12))
    wide = f"{columns}\n{'---|' * 11}---\n{columns}\n\n```\n{'x' * 300}\n```\n\n{'y' * 300} `{'c' * 300}`\n\n{RICH}"
    page.fresh([conversation(said("z" * 300, wide))], path="/#kept")
    page.viewport(360, 640, phone=True)
    page.reload()
    page.wait("probe.$('.prose')")
    widths = "[document.documentElement.scrollWidth, probe.$('#scroll').scrollWidth, innerWidth]"
    check("nothing scrolls sideways on a phone", page.run(widths) == [360, 360, 360], page.run(widths))
    check("but a wide table does within itself", page.run("probe.$('.table').scrollWidth > probe.$('.table').clientWidth"))
    check("the list of conversations is out of the way", page.run("probe.$('#side').inert"))
    page.click("#toggle")
    check("until it is wanted", page.wait("!probe.$('#side').inert") and page.text(".entry a") == "Kept")
    check("and fits", page.run("probe.$('#side').getBoundingClientRect().right <= innerWidth"))
    page.press("Escape")
    check("and goes away", page.wait("probe.$('#side').inert") and page.run("probe.focus()") == "toggle")
    page.click("#settings-open")
    inside = page.run("((r) => [r.left, r.right, r.bottom])(probe.$('#settings').getBoundingClientRect())")
    check("settings fit", inside[0] >= 0 and inside[1] <= 360 and inside[2] <= 640, inside)
    inside = page.run("((e) => [e.scrollWidth, e.clientWidth])(probe.$('#settings'))")
    check("and do not scroll sideways", inside[0] <= inside[1], inside)
    page.click("#settings [data-close]")
    small = page.run("probe.$$('header button, #send').filter((b) => b.getBoundingClientRect().height < 32).length")
    check("buttons are large enough for fingers", small == 0)
    page.say("On a phone")
    page.idle()
    check("and it answers", page.count("article") == 4)
    check("still nothing scrolls sideways", page.run(widths) == [360, 360, 360], page.run(widths))


def test_keyboard(page):
    page.fresh([conversation(said("Hi", "Yes"))])
    page.run("probe.$('#skip').focus()")
    order = []
    for _ in range(16):
        page.press("Tab")
        order.append(page.run("probe.focus()"))
    want = ["new", "Kept", "Rename “Kept”", "Delete “Kept”", "export", "import", "toggle", "theme", "settings-open"]
    check("Tab goes from the list to the head", order[:9] == want, order)
    check("and then to the ideas and the message box", "text" in order[10:], order)
    page.run("probe.$('#skip').focus()")
    page.press("Tab")
    check("what has the focus is seen", page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid")
    page.run("document.activeElement.blur()")
    page.press("/")
    check("/ goes to the message box, and is not typed", page.run("probe.focus() + document.activeElement.value") == "text")
    page.type("one")
    page.press("Shift+Enter")
    page.type("two")
    check("Shift+Enter makes a line", page.run("document.activeElement.value") == "one\ntwo")
    page.press("Enter")
    page.idle()
    check("Enter sends", page.run("probe.$('.said').textContent") == "one\ntwo")
    page.press("ArrowUp")
    check("↑ edits the last message", page.wait("document.activeElement.closest('.editor')"))
    page.press("Escape")
    old = page.kept()["updated"]
    page.press("Alt+r")
    page.idle()
    check("Alt+R regenerates", len(page.kept()["messages"]) == 2 and page.kept()["updated"] > old)
    page.press("Alt+n")
    check("Alt+N begins anew", page.wait("!probe.$('article')"))
    page.press("Alt+s")
    check("Alt+S opens the settings", page.run("probe.$('#settings').open"))
    for _ in range(30):
        page.press("Tab")
    inside = "document.activeElement === document.body || probe.$('#settings').contains(document.activeElement)"
    check("which keep the focus", page.run(inside))
    page.press("Escape")
    check("Escape closes them", not page.run("probe.$('#settings').open"))
    page.press("Alt+l")
    check("Alt+L hides the list", page.run("probe.$('#side').inert"))
    page.press("Alt+l")
    page.run("document.activeElement.blur()")
    page.press("Shift+?")
    check("? lists the shortcuts", page.run("probe.$('#help').open") and page.count("#shortcuts dt") > 8)
    page.press("Escape")
    page.run("probe.$('a[href=\"#kept\"]').focus()")
    page.press("F2")
    page.wait("document.activeElement.tagName === 'INPUT'")
    page.type("Mine")
    page.press("Enter")
    check("F2 renames", page.text("a[href='#kept']") == "Mine" and page.run("document.activeElement.textContent") == "Mine")
    page.press("Delete")
    check("Delete deletes", page.wait("!probe.$('a[href=\"#kept\"]')"))
    page.run("probe.keep('settings', { max_tokens: 100000 })")
    page.endless()
    page.press("Alt+n")
    page.say("Talk for ever")
    page.wait("probe.$('.prose')?.textContent.length > 5")
    page.press("Escape")
    check("Escape stops", page.wait("probe.$('#stop').hidden", 3))
    unnamed = page.run("probe.unnamed()")
    check("everything has a name", unnamed == [], unnamed)


OPENAI = """
import sys, openai
c = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
ask = dict(model="model", messages=[{"role": "user", "content": "What is a heron?"}], max_tokens=40, temperature=0)
whole = c.chat.completions.create(**ask).choices[0].message.content
for _ in range(4):
    pieces = [k.choices[0].delta.content or "" for k in c.chat.completions.create(stream=True, **ask) if k.choices]
    assert "".join(pieces) == whole, pieces
"""


def test_crowd(page, server):
    """The page, the openai client and 32 others at once."""
    def ask(i):
        body = json.dumps({"prompt": f"Number {i} sees", "max_tokens": 40, "temperature": 0}).encode()
        with urllib.request.urlopen(server.origin + "/v1/completions", body, timeout=60) as answer:
            return json.load(answer)["choices"][0]["text"]

    page.fresh(settings={"max_tokens": 300})
    page.endless()
    alone = [ask(i) for i in range(32)]
    page.run("probe.watch()")
    page.say("Can you hear me?")
    page.wait("probe.$('.prose')?.textContent.length > 0")
    python = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "sparkhawk/venv/bin/python")
    client = subprocess.Popen([python, "-c", OPENAI, server.origin]) if os.path.exists(python) else None
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(32)))
    check("32 clients get what each got alone", together == alone)
    check("the openai client gets its streams meanwhile", client is None or client.wait(60) == 0)
    check("the page's answer went on and ends", page.idle() and len(page.kept()["messages"][1]["text"]) > 300)


def test_errors(page, server):
    page.fresh()
    page.endless()
    page.expected += ["status of 429", "status of 400", "ERR_CONNECTION_REFUSED"]
    alert, last = "probe.$('article:last-child .note.error')", "probe.$('article:last-child .prose').textContent"

    def faked(what, status, body, tells, kind="text/event-stream"):
        with page.answering("/v1/chat/completions", status, body, {"Retry-After": "7", "Content-Type": kind}):
            page.say(what)
            check(f"{what}: told", page.wait(f"{alert}?.textContent.includes({json.dumps(tells)})"), page.text("#log"))

    faked("a busy server", 429, json.dumps({"error": {"message": "full"}}), "busy; it asks to wait 7 s", "application/json")
    page.click("article:last-child .note button")
    page.idle()
    check("trying again works", page.count(".note.error") == 0 and len(page.kept()["messages"]) == 2)
    faked("an answer that breaks off", 200, 'data: {"choices":[{"delta":{"content":"Half an"}}]}\n\n', "broke off")
    check("what came is kept", page.run(last) == "Half an")
    faked("an error within a stream", 200, 'data: {"error":{"message":"out of memory"}}\n\ndata: [DONE]\n\n', "out of memory")
    faked("no JSON", 200, "data: <html>\n\n", "not JSON")
    offers = page.run("probe.$$('.note .again').filter((button) => button.offsetWidth).length")
    check("only the last of the failures offers to try again", page.count(".note.error") == 3 and offers == 1, offers)
    page.run("probe.keep('settings', { temperature: 5, max_tokens: 10 })")
    page.say("Wrong?")
    told = page.wait(f"{alert}?.textContent.includes('temperature')")
    check("what the server refuses is told in its words", told, page.text("#log"))
    page.run("probe.keep('settings', { max_tokens: 10 })")
    server.stop()
    page.say("Anybody there?")
    check("a server that is gone is told", page.wait(f"{alert}?.textContent.includes('does not answer')"), page.text("#log"))
    server.start()
    page.click("article:last-child .note button")
    page.idle()
    check("and after its restart the page goes on", page.run(f"!{alert} && {last}.length > 0"), page.text("#log"))
    page.say("Still here")
    page.idle()
    check("with the whole conversation", page.run(f"!{alert} && {last}.length > 0"))


def test_key(page, server):
    page.fresh()
    page.expected += ["status of 401", "ERR_CONNECTION_REFUSED"]  # the icon may be asked for while the server starts anew
    server.stop()
    server.start("--api-key", "secret")
    page.reload()
    check("a server with a key has it asked for", page.wait("probe.$('#settings').open"))
    page.press("Escape")
    page.say("Without")
    check("without it nothing is answered", page.wait("probe.$('.note.error')?.textContent.includes('API key')"))
    page.click(".note.error button")
    check("the note leads to its field", page.wait("document.activeElement.name === 'key'"))
    page.type("secret")
    page.press("Escape")
    page.click(".note.error button:last-child")
    page.idle()
    check("with it the server answers", page.count(".note.error") == 0 and len(page.kept()["messages"]) == 2)
    page.reload()
    check("the key is kept for the tab", page.wait("probe.$('#model').textContent"))
    check("and nowhere else", not page.run("JSON.stringify(localStorage).includes('secret')"))
    server.stop()
    server.start()


main([test for name, test in list(globals().items()) if name.startswith("test_")])
