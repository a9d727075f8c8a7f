/* Markdown as models write it, into DOM nodes. What a model writes is hostile: it becomes text nodes and the elements made here,
 * never markup; a link leads to http or https or stays text; a picture stays a link, so that nothing is fetched. Nesting is
 * bounded, and work grows with the length of the text, not with its square. */
import { copyButton, el } from "./dom.js";
import { highlight } from "./highlight.js";

const DEPTH = 12; /* of lists and quotes in each other; deeper ones are text */

/* ---- within a paragraph ---- */

const SPECIAL = /[\\`*_~[\]<&\n]|!\[|https?:\/\//g;
const ESCAPED = /\\([!-/:-@[-`{-~])/y;
const BREAK = /\\?\n|<br ?\/?>/iy;
const TICKS = /`+/y;
const RUN = /\*{1,3}|_{1,3}|~~/y;
const TARGET = /\(\s{0,9}<?((?:[^\s()<>]|\([^\s()<>]{0,500}\)){1,2000})>?(?:\s{1,9}["'(][^\n]{0,300}?["')])?\s{0,9}\)/y;
const AUTOLINK = /<(https?:\/\/[^\s<>]{1,2000})>/y;
const ADDRESS = /https?:\/\/[^\s<>"`]{1,2000}/y;
const ENTITY = /&(amp|lt|gt|quot|apos|nbsp|#39);/y;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", "#39": "'" };
const TAGS = { "*": ["em", "strong"], _: ["em", "strong"], "~": [null, "del"] };
const OPEN_MARKS = 32; /* bounds how deep elements nest */

const isSpace = (c) => c === undefined || /\s/.test(c);
const isWord = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);

function address(text) {
    try {
        const url = new URL(text);
        return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
    } catch {
        return null;
    }
}

const link = (href, children) => el("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, children);

/* One walk through the text. `out` holds nodes and marks: a mark is a run of * or _ or ~, or a bracket, that may yet be closed;
 * one that never is becomes text. */
class Inline {
    constructor(text) {
        this.text = text;
        this.at = 0;
        this.out = [];
        this.marks = []; /* indexes in out, of open marks */
        this.plain = "";
        this.unclosed = new Set(); /* lengths of runs of ` that nothing closes from here on */
    }

    match(pattern) {
        pattern.lastIndex = this.at;
        const found = pattern.exec(this.text);
        if (found) this.at += found[0].length;
        return found;
    }

    push(item) {
        if (this.plain) this.out.push(document.createTextNode(this.plain));
        this.plain = "";
        this.out.push(item);
    }

    open(mark) {
        this.push(mark);
        if (this.marks.length === OPEN_MARKS) this.marks.shift();
        this.marks.push(this.out.length - 1);
    }

    /* What stands after out[i], as nodes; taken off, with the marks in it. */
    take(i) {
        this.push("");
        const nodes = settle(this.out.splice(i + 1));
        while (this.marks.length && this.marks.at(-1) > i) this.marks.pop();
        return nodes;
    }

    code() {
        const ticks = this.match(TICKS)[0], from = this.at;
        for (const found of this.unclosed.has(ticks.length) ? [] : this.text.slice(from).matchAll(/`+/g)) {
            if (found[0].length !== ticks.length) continue;
            const inside = this.text.slice(from, from + found.index).replaceAll("\n", " ");
            this.push(el("code", null, /^ .*[^ ].* $/.test(inside) ? inside.slice(1, -1) : inside));
            this.at = from + found.index + ticks.length;
            return;
        }
        this.unclosed.add(ticks.length);
        this.plain += ticks;
    }

    emphasis() {
        const before = this.text[this.at - 1], run = this.match(RUN);
        if (!run) return void (this.plain += this.text[this.at++]);
        const char = run[0][0], after = this.text[this.at];
        let count = run[0].length;
        const within = char === "_" && isWord(before) && isWord(after);
        const opens = !isSpace(after) && !within, closes = !isSpace(before) && !within;
        for (let k = closes ? this.marks.length - 1 : -1; k >= 0 && count; k--) {
            const i = this.marks[k], mark = this.out[i];
            if (mark.char !== char) continue;
            /* what could be both begins and ends nothing of a length that does not fit: **a*b** */
            if ((opens || mark.closes) && (mark.count + count) % 3 === 0 && mark.count !== count) continue;
            const use = mark.count >= 2 && count >= 2 ? 2 : 1, tag = TAGS[char][use - 1];
            const node = el(tag, null, this.take(i));
            mark.count -= use, count -= use;
            if (mark.count) k++;
            else this.out.pop(), this.marks.pop();
            this.push(node);
        }
        if (count && opens) this.open({ char, count, closes });
        else this.plain += char.repeat(count);
    }

    bracket() {
        this.at++;
        let k = this.marks.length - 1;
        while (k >= 0 && !this.out[this.marks[k]].bracket) k--;
        if (k < 0) return void (this.plain += "]");
        const i = this.marks[k], mark = this.out[i];
        const start = this.at, target = this.match(TARGET), href = target && address(target[1]);
        this.marks.splice(k, 1);
        if (!href) {
            this.at = start;
            this.plain += "]";
            return;
        }
        const nodes = this.take(i);
        this.out.pop();
        this.push(link(href, nodes.length ? nodes : [mark.bracket === "![" ? "picture" : href]));
    }

    bare() {
        const found = this.match(ADDRESS)?.[0];
        if (!found) return void (this.plain += this.text[this.at++]);
        let shown = found.replace(/[.,;:!?*_~'\]]{1,9}$/, "");
        if (shown.endsWith(")") && !shown.includes("(")) shown = shown.slice(0, -1);
        this.at += shown.length - found.length;
        const href = address(shown);
        if (href) this.push(link(href, [shown]));
        else this.plain += shown;
    }

    special() {
        let found;
        const c = this.text[this.at];
        if ((found = this.match(ESCAPED) ?? this.match(ENTITY))) this.plain += ENTITIES[found[1]] ?? found[1];
        else if (this.match(BREAK)) this.push(el("br"));
        else if (c === "`") this.code();
        else if (c in TAGS) this.emphasis();
        else if (c === "h") this.bare();
        else if (c === "]") this.bracket();
        else if (c === "[" || c === "!") {
            const bracket = c === "!" ? "![" : "[";
            this.at += bracket.length;
            this.open({ bracket });
        } else if ((found = this.match(AUTOLINK)) && address(found[1])) this.push(link(address(found[1]), [found[1]]));
        else this.at += found ? 0 : 1, this.plain += found ? found[0] : c;
    }

    nodes() {
        while (this.at < this.text.length) {
            SPECIAL.lastIndex = this.at;
            const next = SPECIAL.exec(this.text)?.index ?? this.text.length;
            this.plain += this.text.slice(this.at, next);
            this.at = next;
            if (next < this.text.length) this.special();
        }
        return this.take(-1);
    }
}

const settle = (items) => items.filter((item) => item !== "").map((item) =>
    item instanceof Node ? item : document.createTextNode(item.bracket ?? item.char.repeat(item.count)));
const inline = (text) => new Inline(text).nodes();

/* ---- blocks ---- */

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})(?: (.*))?$/;
const RULE = /^ {0,3}([-*_])(?: {0,9}\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?: (.*))?$/;
const TASK = /^\[([ xX])\] /;

const isBlank = (line) => line === undefined || line.trim() === "";
const indent = (line) => line.length - line.trimStart().length;
const dedent = (line, n) => line.slice(Math.min(n, indent(line)));

/* The cells of a table's row; \| is a character. */
const cells = (line) => line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
const isDelimiters = (line) => line !== undefined && line.includes("-") && cells(line).every((cell) => /^:?-+:?$/.test(cell));
const isTable = (lines, i) =>
    lines[i].includes("|") && isDelimiters(lines[i + 1]) && cells(lines[i]).length === cells(lines[i + 1]).length;

const starts = (lines, i) => [FENCE, HEADING, RULE, QUOTE].some((p) => p.test(lines[i])) || isTable(lines, i);

/* Each kind of block: where it begins, and what it is. A reader gets the lines and where it stands, and returns the line after its
 * last one and a function that makes its node. */
const KINDS = [
    [(lines, i) => FENCE.test(lines[i]), fence],
    [(lines, i) => HEADING.test(lines[i]), heading],
    [(lines, i) => RULE.test(lines[i]), (lines, i) => [i + 1, () => el("hr")]],
    [(lines, i, depth) => depth < DEPTH && QUOTE.test(lines[i]), quote],
    [(lines, i, depth) => depth < DEPTH && ITEM.test(lines[i]), list],
    [isTable, table],
    [() => true, paragraph],
];

function fence(lines, i) {
    const [, ticks, info] = FENCE.exec(lines[i]), from = i + 1, inset = indent(lines[i]);
    const closes = (line) => line.trim().length >= ticks.length && line.trim().replaceAll(ticks[0], "") === "" && indent(line) < 4;
    for (i = from; i < lines.length && !closes(lines[i]);) i++;
    const code = lines.slice(from, i).map((line) => dedent(line, inset)).join("\n");
    return [Math.min(i + 1, lines.length), () => codeBlock(code, info.toLowerCase())];
}

function codeBlock(code, language) {
    return el("figure", { class: "code" },
        el("figcaption", null, el("span", null, language || "text"), copyButton("Copy the code", () => code)),
        el("pre", { tabindex: "0" }, el("code", null, highlight(code, language))));
}

function heading(lines, i) {
    const [, hashes, text = ""] = HEADING.exec(lines[i]);
    /* the page has its own h1; those of an answer stand below it */
    return [i + 1, () => el(`h${Math.min(6, hashes.length + 1)}`, null, inline(text.trim().replace(/ #+$/, "")))];
}

function quote(lines, i, depth) {
    const inner = [];
    for (; i < lines.length && !isBlank(lines[i]); i++) {
        if (!QUOTE.test(lines[i]) && (starts(lines, i) || ITEM.test(lines[i]))) break;
        inner.push(lines[i].replace(QUOTE, ""));
    }
    return [i, () => el("blockquote", null, nodes(inner, depth + 1))];
}

/* A line belongs to the item above if it stands further right than the item's marker: models are not exact about columns. */
function list(lines, i, depth) {
    const [, margin, first] = ITEM.exec(lines[i]), ordered = /\d/.test(first), items = [];
    let loose = false, ends = 0; /* blank lines behind the item before */
    while (i < lines.length) {
        const item = ITEM.exec(lines[i]);
        if (!item || /\d/.test(item[2]) !== ordered || item[1].length > margin.length + 1 || RULE.test(lines[i])) break;
        loose ||= ends > 0;
        const inner = [item[3] ?? ""], column = item[1].length + item[2].length + 1;
        for (i++; i < lines.length; i++) {
            const deeper = indent(lines[i]) > item[1].length + 1, after = isBlank(lines[i - 1]);
            if (!isBlank(lines[i]) && !deeper && (after || starts(lines, i) || ITEM.test(lines[i]))) break;
            inner.push(dedent(lines[i], column));
        }
        ends = inner.length - inner.findLastIndex((line) => !isBlank(line)) - 1;
        loose ||= inner.slice(1, inner.length - ends).some(isBlank);
        items.push(inner);
    }
    const start = ordered && parseInt(first, 10) !== 1 ? parseInt(first, 10) : null;
    const attributes = { start, class: loose && "loose" };
    return [i, () => el(ordered ? "ol" : "ul", attributes, items.map((inner) => listItem(inner, depth)))];
}

function listItem(lines, depth) {
    const task = TASK.exec(lines[0]);
    if (!task) return el("li", null, nodes(lines, depth + 1));
    const box = el("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": "task" });
    return el("li", { class: "task" }, box, nodes([lines[0].slice(4), ...lines.slice(1)], depth + 1));
}

function table(lines, i) {
    const head = cells(lines[i]);
    const sides = cells(lines[i + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : null));
    const rows = [];
    for (i += 2; i < lines.length && !isBlank(lines[i]) && lines[i].includes("|"); i++) rows.push(cells(lines[i]));
    const row = (tag, texts) => el("tr", null, head.map((_, c) => el(tag, { class: sides[c] }, inline(texts[c] ?? ""))));
    return [i, () => el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
        el("table", null, el("thead", null, row("th", head)), el("tbody", null, rows.map((texts) => row("td", texts)))))];
}

function paragraph(lines, i, depth) {
    const from = i;
    for (i++; i < lines.length && !isBlank(lines[i]); i++) if (starts(lines, i) || (depth < DEPTH && ITEM.test(lines[i]))) break;
    const text = lines.slice(from, i).map((line) => line.trim()).join("\n");
    return [i, () => el("p", null, inline(text))];
}

/* [{ source, node() }]: node() depends on the source alone, which is what lets render() keep what has not changed. */
function* blocks(lines, depth) {
    for (let i = 0; i < lines.length;) {
        if (isBlank(lines[i])) {
            i++;
            continue;
        }
        const [next, node] = KINDS.find(([begins]) => begins(lines, i, depth))[1](lines, i, depth);
        yield { source: lines.slice(i, next).join("\n"), node };
        i = next;
    }
}

const nodes = (lines, depth) => Array.from(blocks(lines, depth), (block) => block.node());

const sources = new WeakMap();

/* Shows text in the container. Of a text that grows only the blocks at its end are made anew. */
export function render(container, text) {
    let at = container.firstElementChild;
    for (const { source, node } of blocks(text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n"), 0)) {
        if (at && sources.get(at) === source) {
            at = at.nextElementSibling;
            continue;
        }
        const made = node();
        sources.set(made, source);
        if (at) at.replaceWith(made), at = made.nextElementSibling;
        else container.append(made);
    }
    while (at) {
        const next = at.nextElementSibling;
        at.remove();
        at = next;
    }
}
