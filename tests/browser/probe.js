/* What the tests ask of the page, in every document before the page's own scripts. */
const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];

window.probe = {
    $,
    $$,

    /* The elements and texts below a node on one line: <p>text<em>more</></>; buttons and boxes left out. */
    shape(node) {
        if (node.nodeType === Node.TEXT_NODE) return node.data;
        if (/^(BUTTON|INPUT)$/.test(node.tagName)) return "";
        return `<${node.tagName.toLowerCase()}>${[...node.childNodes].map(probe.shape).join("")}</>`;
    },

    /* Of text against what is behind it: WCAG 2, 1.4.3. */
    contrast(selector) {
        const bytes = (colour) => {
            const context = new OffscreenCanvas(1, 1).getContext("2d");
            context.fillStyle = colour;
            context.fillRect(0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data];
        };
        const luminance = (colour) => {
            const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            const [r, g, b] = bytes(colour).map((v) => linear(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let back = $(selector);
        const { color } = getComputedStyle(back);
        while (bytes(getComputedStyle(back).backgroundColor)[3] < 255) back = back.parentElement;
        const [low, high] = [luminance(color), luminance(getComputedStyle(back).backgroundColor)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    },

    /* What can be operated and has no name that a screen reader could say. */
    unnamed() {
        const named = (e) => e.textContent.trim() || e.ariaLabel || e.labels?.length || e.getAttribute("aria-labelledby");
        const hidden = (e) => e.hidden || e.ariaHidden === "true";
        return $$("button, input, textarea, a, dialog").filter((e) => !hidden(e) && !named(e)).map((e) => e.outerHTML);
    },

    /* Lengths of the answer as it grows. */
    watch() {
        probe.lengths = [];
        const note = () => probe.lengths.push($(".prose")?.textContent.length ?? 0);
        new MutationObserver(note).observe($("#log"), { childList: true, subtree: true, characterData: true });
    },

    /* The bodies of requests from now on, to which `more` is added: { logit_bias } so that an answer does not end, say. */
    spy(more) {
        const real = window.fetch;
        probe.sent = [];
        window.fetch = (url, options) => {
            if (!options?.body) return real(url, options);
            probe.sent.push(JSON.parse(options.body));
            return real(url, { ...options, body: JSON.stringify({ ...probe.sent.at(-1), ...more }) });
        };
    },

    /* A promise of the text of the next file that the page makes. */
    nextFile() {
        const real = URL.createObjectURL;
        probe.file = new Promise((done) => {
            URL.createObjectURL = (blob) => {
                done(blob.text());
                return real.call(URL, blob);
            };
        });
    },

    /* As if somebody had chosen this file to import. */
    giveFile(text) {
        const transfer = new DataTransfer();
        transfer.items.add(new File([text], "given.json"));
        $("#file").files = transfer.files;
        $("#file").dispatchEvent(new Event("change"));
    },

    /* Of Markdown texts those that end otherwise when they arrive in pieces than at once, or make elements that no text may. */
    async wrong(texts) {
        const { render } = await import("./page/markdown.js");
        const allowed = "P BR HR EM STRONG DEL CODE PRE A H2 H3 H4 H5 H6 UL OL LI BLOCKQUOTE DIV TABLE THEAD TBODY TR TH TD FIGURE " +
            "FIGCAPTION SPAN BUTTON INPUT svg use";
        const names = new Set(allowed.split(" ")), strange = (e) => !names.has(e.tagName) || (e.href && !/^https?:/.test(e.href));
        return texts.filter((text) => {
            const one = document.createElement("div"), many = document.createElement("div");
            render(one, text);
            for (let n = 0; n <= text.length; n += 3) render(many, text.slice(0, n));
            render(many, text);
            return one.innerHTML !== many.innerHTML || [...one.querySelectorAll("*:not(use)")].some(strange);
        });
    },

    /* Shows `characters` of a text that repeats itself. */
    async repeat(text, characters) {
        const { render } = await import("./page/markdown.js");
        render(document.createElement("div"), text.repeat(characters / text.length));
    },

    /* What has the focus. */
    focus() {
        const e = document.activeElement;
        return e.id || e.name || e.getAttribute("aria-label") || e.textContent;
    },

    keep: (name, value) => localStorage.setItem(`sparkhawk.${name}`, JSON.stringify(value)),
    kept: (name) => JSON.parse(localStorage.getItem(`sparkhawk.${name}`)),
    style: (selector, name) => getComputedStyle($(selector))[name],
    write(selector, text) {
        $(selector).select();
        document.execCommand("insertText", false, text);
    },
};
