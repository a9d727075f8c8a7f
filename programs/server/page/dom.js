/* Elements, and the few things that every part of the page does with them. */

/* el("a", { href, onclick: f, hidden: true }, child, "text", [more, children]). What is null, undefined or false is left out. */
export function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
        if (typeof value === "function") node.addEventListener(name.slice(2), value);
        else if (value === true) node.setAttribute(name, "");
        else if (value !== false && value != null) node.setAttribute(name, value);
    }
    for (const child of children.flat()) if (child != null) node.append(child);
    return node;
}

/* A symbol of index.html. */
export function icon(name) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    use.setAttribute("href", `#i-${name}`);
    svg.append(use);
    return svg;
}

/* A button that shows an icon and is called by its label. */
export const tool = (name, label, onclick, attributes) =>
    el("button", { type: "button", class: "tool", "aria-label": label, title: label, onclick, ...attributes }, icon(name));

export const $ = (id) => document.getElementById(id);

/* For ears: said once, when the reader is idle. */
export function announce(text) {
    $("announce").textContent = text;
}

/* A line at the foot of the page, which goes by itself; `act` is what its button does. */
let toastTimer = 0;
export function toast(text, action, act) {
    clearTimeout(toastTimer);
    const hide = () => $("toast").replaceChildren();
    const button = action && el("button", { type: "button", class: "quiet", onclick: () => { hide(); act(); } }, action);
    $("toast").replaceChildren(el("div", { class: "toast" }, el("span", null, text), button));
    toastTimer = setTimeout(hide, 8000);
}

/* navigator.clipboard exists only on https and localhost; a page in a local network has the older way. */
export async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = el("textarea", { class: "unseen" });
    const focused = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    if (!done) throw new Error("the browser does not let pages copy");
}

/* A copy button, which says for a moment that it has copied. `text` is asked when it is pressed. */
export function copyButton(label, text) {
    const button = tool("copy", label, async () => {
        try {
            await copy(text());
            button.replaceChildren(icon("check"));
            announce("Copied");
            setTimeout(() => button.replaceChildren(icon("copy")), 1500);
        } catch {
            toast("This could not be copied.");
        }
    });
    return button;
}

/* "1.3 MB": powers of 1000, three digits. */
export function bytes(n) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let i = 0;
    while (n >= 999.5 && i < units.length - 1) n /= 1000, i++;
    return `${i && n < 99.95 ? n.toFixed(n < 9.995 ? 2 : 1) : Math.round(n)} ${units[i]}`;
}

export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
