/* The page as a whole: which conversation is open, what is being written, and the keys. */
import * as api from "./api.js";
import { $, announce, toast } from "./dom.js";
import { flipTheme, openHelp, openSettings, startSettings } from "./settings.js";
import { drawSide, leaveSide, startSide, toggleSide } from "./side.js";
import * as store from "./store.js";
import { meterOf, view } from "./view.js";

const SAVE_EVERY = 2000; /* ms, while an answer is written */
const IDEAS = [
    "Explain how a hawk finds its prey, to a curious child.",
    "Compare three ways of brewing coffee in a table.",
    "Write a Python function that finds the longest common prefix, with tests.",
    "Tell a very short story that begins in a lighthouse.",
];

let conversation = store.fresh();
let run = null; /* { conversation, message, controller }: the answer that is being written, perhaps in another conversation */
let model = "";
const acts = { edit, regenerate, key: () => openSettings("key") };

/* ---- the open conversation ---- */

function nodeOf(message) {
    return [...$("log").children].find((node) => node.message === message) ?? null;
}

function draw() {
    $("log").replaceChildren(...conversation.messages.map((message) => view(message, acts)));
    if (run?.conversation === conversation) nodeOf(run.message)?.update(true);
    drawFrame();
    toEnd();
}

/* All around the messages. */
function drawFrame() {
    const writing = run !== null, empty = !conversation.messages.length;
    $("welcome").hidden = !empty;
    $("title").textContent = empty ? "New conversation" : conversation.title;
    document.title = empty ? "Sparkhawk" : `${conversation.title} · Sparkhawk`;
    $("send").hidden = writing;
    $("stop").hidden = !writing;
    $("model").textContent = model;
    $("model").hidden = !model;
    drawSide(conversation.id);
}

/* The conversation that the address names; a new one if it names none. */
function route() {
    const id = location.hash.slice(1);
    if (id === conversation.id) return;
    if (run?.conversation.id === id) conversation = run.conversation;
    else conversation = (id && store.load(id)) || store.fresh();
    draw();
    leaveSide();
    $("text").focus({ preventScroll: true });
}

function keep(kept) {
    try {
        store.save(kept);
    } catch {
        toast("The browser has no room left for this conversation. Export it, or delete others.");
    }
}

/* ---- scrolling: the end stays in view while it is there ---- */

const atEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 60;
let follows = true;
function toEnd() {
    follows = true;
    $("scroll").scrollTop = $("scroll").scrollHeight;
    $("latest").hidden = true;
}
function followEnd() {
    if (follows) $("scroll").scrollTop = $("scroll").scrollHeight;
    $("latest").hidden = follows || atEnd();
}

/* ---- answers ---- */

/* What is sent: turns alternate, so what has no answer is joined with what came after it. */
function turns(messages, system) {
    const out = system.trim() ? [{ role: "system", content: system }] : [];
    for (const { role, text } of messages) {
        const content = text.replaceAll("\0", ""); /* which JSON may hold, and the server's may not */
        if (!content) continue;
        if (out.at(-1)?.role === role) out.at(-1).content += `\n\n${content}`;
        else out.push({ role, content });
    }
    return out;
}

function request() {
    const { temperature, top_p, top_k, min_p, max_tokens, seed, system } = store.settings();
    const messages = turns(conversation.messages, system);
    return { temperature, top_p, top_k, min_p, max_tokens: max_tokens ?? undefined, seed: seed ?? undefined, messages };
}

const FAILURES = {
    [-1]: (e) => `The answer broke off: ${e.message}`,
    0: () => "The server does not answer. Is “sparkhawk serve” running?",
    401: () => "The server asks for an API key.",
    429: (e) => `The server is busy${e.retryAfter ? `; it asks to wait ${e.retryAfter} s` : ""}.`,
    503: (e) => `The server cannot answer now: ${e.message}`,
};

function noteOf(error) {
    if (error.name === "AbortError") return { kind: "stopped", text: "Stopped." };
    if (!(error instanceof api.ApiError)) return { kind: "error", text: `This page failed: ${error.message}` };
    const say = FAILURES[error.status] ?? ((e) => `The server refuses: ${e.message}`);
    return { kind: "error", text: say(error), status: error.status };
}

/* Lets the model answer the conversation as it stands. */
async function answer() {
    const body = request(), message = { role: "assistant", text: "", note: null, stats: null };
    const mine = { conversation, message, controller: new AbortController() }, meter = meterOf(message);
    run = mine;
    mine.conversation.messages.push(message);
    $("log").append(view(message, acts));
    let timer = 0, pause = 16, saved = performance.now();
    const show = () => { /* about a quarter of the time at most, however long the answer grows */
        const begin = performance.now();
        timer = 0;
        nodeOf(message)?.update(run === mine);
        followEnd();
        pause = Math.min(500, Math.max(16, 3 * (performance.now() - begin)));
    };
    drawFrame();
    show();
    announce("Writing");
    try {
        for await (const { text, stats, finish, name } of api.complete(body, mine.controller.signal)) {
            message.text += text;
            model = name || model;
            if (stats) meter.add(stats), message.stats = meter.summary;
            if (finish === "length") message.note = { kind: "length", text: "Cut at the longest answer that the settings allow." };
            else if (finish && !message.text) message.note = { kind: "stopped", text: "The model had nothing to say." };
            timer ||= setTimeout(show, pause);
            if (performance.now() - saved < SAVE_EVERY) continue;
            keep(mine.conversation);
            saved = performance.now();
        }
    } catch (error) {
        message.note = noteOf(error);
    }
    clearTimeout(timer);
    run = null;
    meter.finish();
    mine.conversation.updated = Date.now();
    if (mine.conversation.messages.includes(message)) keep(mine.conversation);
    show();
    drawFrame();
    announce([nodeOf(message)?.querySelector(".prose").textContent, message.note?.text].filter(Boolean).join(" "));
}

/* Ends the answer that is being written; resolves when it has ended. */
async function stop() {
    run?.controller.abort();
    while (run) await new Promise((done) => setTimeout(done, 5));
}

async function send(text) {
    if (run) return;
    conversation.messages.push({ role: "user", text, note: null, stats: null });
    await begin();
}

/* After the user's last message has changed. */
async function begin() {
    conversation.updated = Date.now();
    keep(conversation);
    if (location.hash.slice(1) !== conversation.id) history.pushState(null, "", `#${conversation.id}`);
    draw();
    await answer();
}

async function edit(message, text) {
    await stop();
    const at = conversation.messages.indexOf(message);
    conversation.messages.splice(at, Infinity, { ...message, text });
    $("text").focus({ preventScroll: true });
    await begin();
}

async function regenerate() {
    await stop();
    while (conversation.messages.at(-1)?.role === "assistant") conversation.messages.pop();
    if (!conversation.messages.length) return;
    $("text").focus({ preventScroll: true });
    await begin();
}

/* ---- the message box and the keys ---- */

function grow() {
    const text = $("text");
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
}

function submit() {
    const text = $("text").value.trim();
    if (!text || run) return;
    $("text").value = "";
    grow();
    send(text);
}

function editLast() {
    const last = [...$("log").querySelectorAll(".user")].at(-1);
    last?.querySelector("button").click();
}

const SHORTCUTS = [
    ["Enter", "send"],
    ["Shift+Enter", "a new line"],
    ["Esc", "stop the answer"],
    ["↑", "in an empty message box: edit the last message"],
    ["/", "to the message box"],
    ["Alt+N", "new conversation", () => { location.hash = ""; route(); }],
    ["Alt+L", "conversations", () => toggleSide()],
    ["Alt+R", "regenerate the answer", regenerate],
    ["Alt+S", "settings", () => openSettings()],
    ["Alt+D", "dark or light", flipTheme],
    ["F2", "rename the conversation under the cursor"],
    ["Delete", "delete the conversation under the cursor"],
    ["?", "this list"],
];

function onKey(event) {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches?.("input, textarea"), plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    const alt = event.altKey && !event.ctrlKey && !event.metaKey; /* by place: with Alt the letter may be another one */
    const chord = alt && SHORTCUTS.find(([keys]) => keys.startsWith("Alt+") && event.code === `Key${keys.slice(4)}`);
    if (chord) chord[2]();
    else if (event.key === "Escape" && run) stop();
    else if (plain && !typing && event.key === "/") $("text").focus();
    else if (plain && !typing && event.key === "?") openHelp(SHORTCUTS);
    else return;
    event.preventDefault();
}

function startComposer() {
    $("composer").addEventListener("submit", (event) => {
        event.preventDefault();
        submit();
    });
    $("text").addEventListener("input", grow);
    $("text").addEventListener("keydown", (event) => {
        if (event.isComposing) return;
        if (event.key === "Enter" && !event.shiftKey) submit();
        else if (event.key === "ArrowUp" && !$("text").value) editLast();
        else return;
        event.preventDefault();
    });
    $("stop").addEventListener("click", () => {
        stop();
        $("text").focus();
    });
    $("skip").addEventListener("click", (event) => {
        event.preventDefault();
        $("text").focus();
    });
    for (const idea of IDEAS) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = idea;
        button.addEventListener("click", () => send(idea));
        $("ideas").append(button);
    }
}

async function askModel() {
    try {
        model = await api.model();
        drawFrame();
    } catch (error) {
        if (error.status === 401) openSettings("key");
    }
}

/* What another tab did to the open conversation, or the list to its title. */
function reload(id) {
    if (id !== conversation.id || run?.conversation === conversation) return;
    const kept = store.load(id);
    if (!kept) return;
    conversation = kept;
    draw();
}

function start() {
    startSettings();
    startSide();
    startComposer();
    document.addEventListener("keydown", onKey);
    addEventListener("hashchange", route);
    addEventListener("popstate", route);
    addEventListener("renamed", ({ detail }) => {
        const title = store.load(detail)?.title;
        if (!title) return;
        for (const open of [conversation, run?.conversation]) // an answer being made will be stored with its own
            if (open?.id === detail) Object.assign(open, { title, named: true });
        if (detail === conversation.id) drawFrame();
    });
    addEventListener("removed", async ({ detail }) => {
        if (run?.conversation.id === detail) {
            run.conversation.messages = [];
            await stop();
        }
        if (detail === conversation.id) location.hash = "";
    });
    addEventListener("pagehide", () => run && keep(run.conversation));
    store.onChange((key) => key.startsWith("chat.") && reload(key.slice(5)));
    $("new").addEventListener("click", (event) => {
        event.preventDefault();
        history.pushState(null, "", location.pathname);
        route();
        if (!conversation.messages.length) leaveSide(), $("text").focus();
    });
    $("theme").addEventListener("click", flipTheme);
    $("settings-open").addEventListener("click", () => openSettings());
    $("help-open").addEventListener("click", () => openHelp(SHORTCUTS));
    $("latest").addEventListener("click", toEnd);
    $("scroll").addEventListener("scroll", () => {
        follows = atEnd();
        $("latest").hidden = follows;
    });
    route();
    draw();
    askModel();
}

start();
