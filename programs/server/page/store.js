/* What the browser keeps: settings, and conversations, each under a key of its own beside an index of them all.
 *
 *   conversation  { id, title, named, updated, messages }     named: by hand
 *   message       { role: "user"|"assistant", text, note, stats }
 *   note          { kind: "stopped"|"length"|"error", text }, or null
 *   stats         what meter.js sums up, or null */

const PREFIX = "sparkhawk.";
export const DEFAULTS = {
    temperature: 1, top_p: 0.95, top_k: 64, min_p: 0, max_tokens: 1024, seed: null, system: "", theme: "auto", sidebar: true,
};

function read(name) {
    try {
        return JSON.parse(localStorage.getItem(PREFIX + name));
    } catch {
        return null;
    }
}

/* Throws where the browser's room is used up. */
const write = (name, value) => localStorage.setItem(PREFIX + name, JSON.stringify(value));

/* ---- settings ---- */

export function settings() {
    const kept = read("settings") ?? {}, out = { ...DEFAULTS };
    for (const name of Object.keys(DEFAULTS)) {
        const type = name === "seed" ? "number" : typeof DEFAULTS[name];
        if (typeof kept[name] === type || (name === "max_tokens" && kept[name] === null)) out[name] = kept[name];
    }
    return out;
}
export const keepSettings = (changes) => write("settings", { ...settings(), ...changes });

/* ---- conversations ---- */

const isObject = (x) => typeof x === "object" && x !== null && !Array.isArray(x);
const isShare = (x) => x === null || (typeof x === "number" && x >= 0 && x <= 1);
const number = (x) => (Number.isFinite(x) && x >= 0 ? x : 0);

function cleanStats(stats) {
    if (!isObject(stats)) return null;
    const active = Array.isArray(stats.active) && stats.active.length <= 1000 && stats.active.every(isShare) ? stats.active : [];
    const sizes = { state_bytes: number(stats.state_bytes), cache_bytes: number(stats.cache_bytes) };
    return { tok_s: number(stats.tok_s), tokens: number(stats.tokens), active, ...sizes };
}

function cleanNote(note) {
    const known = isObject(note) && ["stopped", "length", "error"].includes(note.kind) && typeof note.text === "string";
    return known ? { kind: note.kind, text: note.text } : null;
}

/* The conversation that x describes, with nothing in it that is not known here; null if it describes none. What is read comes from
 * a file or from storage that other pages of this origin may have written. */
function clean(x) {
    if (!isObject(x) || !Array.isArray(x.messages)) return null;
    const sound = (m) => isObject(m) && ["user", "assistant"].includes(m.role) && typeof m.text === "string";
    if (!x.messages.every(sound)) return null;
    return {
        id: isId(x.id) ? x.id : newId(),
        title: typeof x.title === "string" ? x.title.slice(0, 200) : "Conversation",
        named: x.named === true,
        updated: number(x.updated),
        messages: x.messages.map((m) => ({ role: m.role, text: m.text, note: cleanNote(m.note), stats: cleanStats(m.stats) })),
    };
}

/* crypto.randomUUID exists on secure origins only. */
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, "0")).join("");

export const fresh = () => ({ id: newId(), title: "New conversation", named: false, updated: Date.now(), messages: [] });

const isId = (x) => typeof x === "string" && /^[\w-]{1,64}$/.test(x);

/* [{ id, title, updated }], the latest first. */
export function index() {
    const kept = read("index");
    const sound = (x) => isObject(x) && isId(x.id) && typeof x.title === "string";
    return (Array.isArray(kept) ? kept.filter(sound) : []).sort((a, b) => b.updated - a.updated);
}

export const load = (id) => clean(read(`chat.${id}`));

function titleOf(conversation) {
    const first = conversation.messages.find((m) => m.role === "user")?.text.trim().split("\n")[0] ?? "";
    return first.length > 60 ? `${first.slice(0, 59).trimEnd()}…` : first || "New conversation";
}

export function save(conversation) {
    if (!conversation.named) conversation.title = titleOf(conversation);
    const { id, title, updated } = conversation;
    write(`chat.${id}`, conversation);
    write("index", [{ id, title, updated }, ...index().filter((x) => x.id !== id)]);
}

/* What has been removed, so that it can be saved again. */
export function remove(id) {
    const conversation = load(id);
    localStorage.removeItem(`${PREFIX}chat.${id}`);
    write("index", index().filter((x) => x.id !== id));
    return conversation;
}

export function rename(id, title) {
    const conversation = load(id);
    if (conversation) save({ ...conversation, title: title.slice(0, 200), named: true });
}

export const exported = () =>
    JSON.stringify({ sparkhawk: 1, conversations: index().map(({ id }) => load(id)).filter(Boolean) }, null, 1);

/* Adds the conversations of an exported text, in place of those of the same id; returns how many. */
export function imported(text) {
    const file = JSON.parse(text);
    const known = isObject(file) && file.sparkhawk === 1 && Array.isArray(file.conversations);
    if (!known) throw new Error("it is no export of Sparkhawk's");
    const all = file.conversations.map(clean);
    if (all.includes(null)) throw new Error(`conversation ${all.indexOf(null) + 1} is damaged`);
    all.forEach(save);
    return all.length;
}

/* Another tab has written. */
export function onChange(act) {
    addEventListener("storage", ({ key }) => key?.startsWith(PREFIX) && act(key.slice(PREFIX.length)));
}
