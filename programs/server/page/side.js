/* The list of conversations: opening is a link, so that the browser's history works; renaming and deleting are beside it. */
import { $, el, toast, tool } from "./dom.js";
import * as store from "./store.js";

const DAY = 86400000;
const narrow = matchMedia("(max-width: 52rem)");
let shown = ""; /* id of the open conversation */

/* "Today", "Yesterday", "Earlier". */
function group(time) {
    const midnight = new Date().setHours(0, 0, 0, 0);
    return time >= midnight ? "Today" : time >= midnight - DAY ? "Yesterday" : "Earlier";
}

function entry({ id, title }) {
    const line = el("li", { class: "entry" });
    const link = el("a", { href: `#${id}`, "aria-current": id === shown && "page", title }, title);
    const rename = () => line.replaceChildren(nameField(id, title));
    link.addEventListener("keydown", (event) => {
        if (event.key === "F2") rename();
        else if (event.key === "Delete") remove(id);
    });
    line.append(link, tool("edit", `Rename “${title}”`, rename), tool("bin", `Delete “${title}”`, () => remove(id)));
    return line;
}

function nameField(id, title) {
    const field = el("input", { "aria-label": "Title", maxlength: "200", value: title });
    let done = false;
    const end = (keep) => {
        if (done) return;
        done = true;
        field.remove();
        if (keep && field.value.trim() && field.value !== title) store.rename(id, field.value.trim());
        drawSide(shown);
        $("list").querySelector(`a[href="#${id}"]`)?.focus();
        dispatchEvent(new CustomEvent("renamed", { detail: id }));
    };
    field.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== "Escape") return;
        event.stopPropagation();
        end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    queueMicrotask(() => field.select());
    return field;
}

function remove(id) {
    const conversation = store.remove(id);
    dispatchEvent(new CustomEvent("removed", { detail: id }));
    drawSide(shown);
    if (!conversation) return;
    toast(`“${conversation.title}” is deleted.`, "Undo", () => {
        store.save(conversation);
        location.hash = id;
        drawSide(id);
    });
}

export function drawSide(current) {
    if ($("list").querySelector("input")) return; /* a title is being typed */
    shown = current;
    const groups = new Map();
    for (const item of store.index()) {
        const name = group(item.updated);
        if (!groups.has(name)) groups.set(name, []);
        groups.get(name).push(item);
    }
    $("list").replaceChildren(...Array.from(groups, ([name, items]) =>
        el("section", null, el("h2", null, name), el("ul", null, items.map(entry)))));
}

/* ---- shown or not: beside the conversation where there is room, else over it ---- */

export const sideIsOpen = () => !$("side").inert;

export function showSide(open) {
    document.documentElement.dataset.side = open ? "open" : "closed";
    $("side").inert = !open;
    $("main").inert = open && narrow.matches;
    $("toggle").setAttribute("aria-expanded", open);
    if (open && narrow.matches) $("new").focus();
}

export function toggleSide(open = !sideIsOpen()) {
    showSide(open);
    if (!narrow.matches) store.keepSettings({ sidebar: open });
    else if (!open) $("toggle").focus();
}

/* After something has been chosen in the list. */
export function leaveSide() {
    if (narrow.matches) showSide(false);
}

function saveFile() {
    const url = URL.createObjectURL(new Blob([store.exported()], { type: "application/json" }));
    el("a", { href: url, download: `sparkhawk-${new Date().toISOString().slice(0, 10)}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function readFile(file) {
    try {
        const n = store.imported(await file.text());
        toast(n === 1 ? "One conversation was imported." : `${n} conversations were imported.`);
    } catch (error) {
        toast(`${file.name} could not be imported: ${error.message}`);
    }
    drawSide(shown);
}

export function startSide() {
    $("toggle").addEventListener("click", () => toggleSide());
    $("veil").addEventListener("click", () => toggleSide(false));
    $("side").addEventListener("keydown", (event) => event.key === "Escape" && narrow.matches && toggleSide(false));
    $("export").addEventListener("click", saveFile);
    $("import").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", async () => {
        if ($("file").files[0]) await readFile($("file").files[0]);
        $("file").value = "";
    });
    narrow.addEventListener("change", () => showSide(!narrow.matches && store.settings().sidebar));
    store.onChange((key) => key === "index" && drawSide(shown));
    showSide(!narrow.matches && store.settings().sidebar);
}
