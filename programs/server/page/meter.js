/* What an answer cost: tokens per second, the share of each layer's neurons that were active, and what the sequence occupies
 * beside a transformer's cache. One line that opens to a map of layers by tokens. */
import { bytes, el, percent } from "./dom.js";

const COLUMNS = 240; /* of the map; neighbours are merged when there are more */
const TONE = [224, 122, 48];
const GREY = [128, 124, 118];

const mean = (numbers) => numbers.reduce((sum, x) => sum + x, 0) / numbers.length;
const sparse = (active) => active.filter((x) => x !== null);

export class Meter {
    /* summary: what a kept message has of it, or null. */
    constructor(summary) {
        this.summary = summary ?? { tok_s: 0, tokens: 0, active: [], state_bytes: 0, cache_bytes: 0 };
        this.live = null;    /* of the last token, while the answer is written */
        this.columns = [];   /* [up to COLUMNS][layers], means over `stride` tokens each */
        this.stride = 1;
        this.partial = [];   /* tokens of the column that is not full yet */
        this.strip = el("span", { class: "strip", role: "img" });
        this.words = el("span", { class: "words" });
        this.map = el("canvas", { class: "map", role: "img" });
        this.scale = el("p", { class: "scale" });
        this.sizes = el("div", { class: "sizes" });
        this.heat = el("div", { class: "heat" },
            el("p", { class: "label" }, "Active neurons, layer by layer, as the answer was written"), this.map, this.scale);
        this.node = el("details", { class: "meter", ontoggle: () => this.draw() },
            el("summary", null, this.strip, this.words), el("div", { class: "panel" }, this.heat, this.sizes));
        this.draw();
    }

    add(stats) {
        const s = this.summary, active = Array.isArray(stats.active) ? stats.active : [];
        s.tok_s = stats.tok_s ?? s.tok_s;
        s.state_bytes = stats.state_bytes ?? s.state_bytes;
        s.cache_bytes = stats.cache_bytes ?? s.cache_bytes;
        s.tokens++;
        if (!active.length) return;
        s.active = active.map((x, i) => (x === null ? null : (s.active[i] ?? 0) + (x - (s.active[i] ?? 0)) / s.tokens));
        this.live = active;
        this.partial.push(active);
        if (this.partial.length < this.stride) return;
        this.columns.push(merge(this.partial));
        this.partial = [];
        if (this.columns.length < COLUMNS) return;
        this.columns = Array.from({ length: COLUMNS / 2 }, (_, i) => merge(this.columns.slice(2 * i, 2 * i + 2)));
        this.stride *= 2;
    }

    finish() {
        this.live = null;
        this.draw();
    }

    draw() {
        const s = this.summary;
        this.node.hidden = !s.tokens;
        if (!s.tokens) return;
        const shown = this.live ?? s.active, shares = sparse(s.active);
        this.drawStrip(shown);
        const words = [`${s.tok_s.toFixed(s.tok_s < 10 ? 1 : 0)} tokens/s`];
        if (shares.length) words.unshift(`${percent(mean(sparse(shown)))} of neurons active`);
        if (s.state_bytes) words.push(`state ${bytes(s.state_bytes)}`, `a cache would be ${bytes(s.cache_bytes)}`);
        this.words.textContent = words.join(" · ");
        if (this.node.open) this.drawPanel(shares);
    }

    drawStrip(shares) {
        this.strip.hidden = !sparse(shares).length;
        if (this.strip.childElementCount !== shares.length) this.strip.replaceChildren(...shares.map(() => el("i")));
        shares.forEach((share, i) => {
            const bar = this.strip.children[i];
            bar.className = share === null ? "dense" : "";
            bar.title = `layer ${i}: ${share === null ? "dense" : percent(share)}`;
            bar.style.setProperty("--share", share ?? 1);
        });
        const some = sparse(shares), average = some.length && percent(mean(some));
        this.strip.setAttribute("aria-label", `Active neurons in ${some.length} sparse layers: ${average} on average`);
    }

    drawPanel(shares) {
        this.heat.hidden = !shares.length || !this.columns.length;
        if (!this.heat.hidden) this.drawMap();
        const { state_bytes: state, cache_bytes: cache } = this.summary, most = Math.max(state, cache, 1);
        const row = (name, n, kind) => {
            const bar = el("span", { class: `size ${kind}` });
            bar.style.setProperty("--share", n / most);
            return [el("span", null, name), el("span", { class: "track" }, bar), el("span", { class: "amount" }, bytes(n))];
        };
        this.sizes.hidden = !state;
        this.sizes.replaceChildren(el("p", { class: "label" }, "What the conversation occupies in memory"),
            ...row("Here", state, "ours"), ...row("A transformer’s cache", cache, "theirs"));
    }

    /* One pixel for a layer and a column; the style sheet makes them large. */
    drawMap() {
        const layers = this.summary.active.length, all = this.columns.flatMap(sparse);
        const low = Math.min(...all), high = Math.max(...all);
        this.map.width = Math.max(this.columns.length, 24);
        this.map.height = layers;
        this.map.style.setProperty("--layers", layers);
        const context = this.map.getContext("2d"), image = context.createImageData(this.map.width, layers);
        this.columns.forEach((column, x) => column.forEach((share, y) => {
            const depth = share === null ? 0.18 : high > low ? 0.12 + 0.88 * (share - low) / (high - low) : 0.6;
            image.data.set([...(share === null ? GREY : TONE), 255 * depth], 4 * (y * this.map.width + x));
        }));
        context.putImageData(image, 0, 0);
        const dense = this.summary.active.includes(null) ? "; grey: dense layers" : "";
        const text = `${percent(low)} (faint) to ${percent(high)} (full)${dense}. Rows are layers, columns are ` +
            (this.stride > 1 ? `${this.stride} tokens each.` : "tokens.");
        this.scale.textContent = text;
        this.map.setAttribute("aria-label", `Map of active neurons: ${text}`);
    }
}

/* The mean of several columns. */
function merge(columns) {
    return columns[0].map((x, i) => (x === null ? null : mean(columns.map((column) => column[i] ?? 0))));
}
