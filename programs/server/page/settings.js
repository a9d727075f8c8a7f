/* The settings dialog, the theme, and the list of shortcuts. */
import { getKey, setKey } from "./api.js";
import { $, el } from "./dom.js";
import * as store from "./store.js";

const dialog = $("settings"), form = dialog.querySelector("form");
const dark = matchMedia("(prefers-color-scheme: dark)");
const fields = () => [...form.elements].filter((field) => field.name && field.name !== "key");

export function applyTheme() {
    document.documentElement.dataset.theme = store.settings().theme;
}

/* From what is seen now to the other one. */
export function flipTheme() {
    const { theme } = store.settings();
    const isDark = theme === "auto" ? dark.matches : theme === "dark";
    store.keepSettings({ theme: isDark ? "light" : "dark" });
    applyTheme();
}

function fill(settings) {
    for (const field of fields()) {
        if (field.type === "radio") field.checked = field.value === settings[field.name];
        else field.value = settings[field.name] ?? "";
    }
    for (const range of form.querySelectorAll("[data-for]")) range.value = form.elements[range.dataset.for].value;
}

/* What is valid is kept at once; what is not stays in its field, which says why. */
function keep(field) {
    if (!field.checkValidity()) return void field.reportValidity();
    const value = field.type !== "number" ? field.value : field.value === "" ? null : Number(field.value);
    store.keepSettings({ [field.name]: value });
    if (field.name === "theme") applyTheme();
}

export function openSettings(name) {
    fill(store.settings());
    form.elements.key.value = getKey();
    if (!dialog.open) dialog.showModal();
    if (name) form.elements[name].focus();
}

export function openHelp(shortcuts) {
    const keys = (text) => text.split("+").flatMap((key, i) => (i ? ["+", el("kbd", null, key)] : [el("kbd", null, key)]));
    const line = ([name, what]) => el("div", null, el("dt", null, keys(name)), el("dd", null, what));
    $("shortcuts").replaceChildren(...shortcuts.map(line));
    if (!$("help").open) $("help").showModal();
}

export function startSettings() {
    applyTheme();
    form.addEventListener("input", ({ target }) => {
        if (target.name === "key") return setKey(target.value.trim());
        const range = form.querySelector(`[data-for="${target.name}"]`), field = form.elements[target.dataset.for];
        if (field) field.value = target.value;
        if (range) range.value = target.value;
        keep(field ?? target);
    });
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        dialog.close();
    });
    $("defaults").addEventListener("click", () => {
        const { sidebar } = store.settings();
        store.keepSettings({ ...store.DEFAULTS, sidebar });
        applyTheme();
        fill(store.settings());
    });
    for (const button of document.querySelectorAll("[data-close]"))
        button.addEventListener("click", () => button.closest("dialog").close());
    for (const each of document.querySelectorAll("dialog"))
        each.addEventListener("click", (event) => event.target === each && each.close()); /* the backdrop */
    store.onChange((key) => key === "settings" && applyTheme());
}
