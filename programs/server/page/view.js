/* What one message looks like. */
import { copyButton, el, tool } from "./dom.js";
import { render } from "./markdown.js";
import { Meter } from "./meter.js";

const meters = new WeakMap(); /* message -> Meter: the map of an answer outlives its view */

export function meterOf(message) {
    if (!meters.has(message)) meters.set(message, new Meter(message.stats));
    return meters.get(message);
}

/* acts: { edit(message), regenerate(), retry(), key() }. The node has `message` and, for an answer, update(). */
export const view = (message, acts) => (message.role === "user" ? userView(message, acts) : answerView(message, acts));

function userView(message, acts) {
    const node = el("article", { class: "user", "aria-label": "You" }, el("div", { class: "said" }, message.text),
        el("div", { class: "tools" }, tool("edit", "Edit", () => editor(node, acts)), copyButton("Copy", () => message.text)));
    node.message = message;
    return node;
}

/* The message as a text box in its place. */
function editor(node, acts) {
    const { message } = node;
    const text = el("textarea", { "aria-label": "Edit the message" });
    const close = () => {
        const back = userView(message, acts);
        form.replaceWith(back);
        back.querySelector("button").focus();
    };
    const form = el("form", { class: "editor", onsubmit: (event) => {
        event.preventDefault();
        if (text.value.trim()) acts.edit(message, text.value.trim());
    } }, text, el("div", { class: "actions" }, el("button", { type: "button", class: "quiet", onclick: close }, "Cancel"),
        el("button", { type: "submit", class: "button" }, "Send")));
    form.addEventListener("keydown", (event) => {
        if (event.key === "Escape") close();
        else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) form.requestSubmit();
        else return;
        event.preventDefault();
        event.stopPropagation();
    });
    text.value = message.text;
    text.rows = Math.min(12, message.text.split("\n").length + 1);
    node.replaceWith(form);
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
}

function answerView(message, acts) {
    const text = el("div", { class: "prose" }), note = el("div"), meter = meterOf(message);
    const tools = el("div", { class: "tools" }, copyButton("Copy", () => message.text),
        tool("again", "Regenerate (Alt+R)", acts.regenerate, { class: "tool again" }));
    const node = el("article", { class: "answer", "aria-label": "Answer" }, text, note, meter.node, tools);
    node.message = message;
    node.update = (writing) => {
        node.classList.toggle("writing", writing);
        node.classList.toggle("waiting", writing && !message.text);
        render(text, message.text);
        note.replaceChildren(...(message.note ? [noteView(message.note, acts)] : []));
        tools.hidden = writing || (!message.text && message.note?.kind === "error"); /* whose note offers what there is to do */
        tools.firstChild.hidden = !message.text;
        meter.draw();
    };
    node.update(false);
    return node;
}

function noteView({ kind, text, status }, acts) {
    const again = el("button", { type: "button", class: "quiet again", onclick: acts.regenerate }, "Try again");
    const key = status === 401 ? el("button", { type: "button", class: "quiet", onclick: acts.key }, "Enter the API key") : null;
    return el("p", { class: `note ${kind}` }, el("span", null, text), key, kind === "error" ? again : null);
}
