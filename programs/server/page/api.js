/* The server's API: OpenAI's chat completions, streamed, with this engine's "stats" in each chunk. */

let key = sessionStorage.getItem("sparkhawk.key") ?? ""; /* for as long as the tab lives: other pages may come to this origin */

export const getKey = () => key;
export function setKey(text) {
    key = text;
    sessionStorage.setItem("sparkhawk.key", key);
}

/* status: of HTTP; 0: no answer at all, -1: the answer broke off. retryAfter: seconds, or null. */
export class ApiError extends Error {
    constructor(status, message, retryAfter = null) {
        super(message);
        this.status = status;
        this.retryAfter = retryAfter;
    }
}

async function call(path, options = {}) {
    const headers = { "Content-Type": "application/json" };
    if (key) headers.Authorization = `Bearer ${key}`;
    let response;
    try {
        response = await fetch(path, { ...options, headers });
    } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ApiError(0, "The server does not answer.");
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    const after = parseInt(response.headers.get("Retry-After"), 10);
    throw new ApiError(response.status, body?.error?.message ?? `status ${response.status}`, after > 0 ? after : null);
}

/* The name of the model that answers. */
export async function model() {
    const list = await (await call("v1/models")).json();
    return String(list?.data?.[0]?.id ?? "");
}

/* The data of each event of a stream. Events end with an empty line; only their data lines matter here. */
async function* events(body) {
    const reader = body.getReader(), decoder = new TextDecoder();
    let rest = "";
    for (;;) {
        let piece;
        try {
            piece = await reader.read();
        } catch (error) {
            if (error.name === "AbortError") throw error;
            throw new ApiError(-1, "The connection broke off.");
        }
        rest += decoder.decode(piece.value ?? new Uint8Array(), { stream: !piece.done });
        const lines = rest.split(/\r?\n/);
        rest = lines.pop();
        for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
        if (piece.done) return;
    }
}

/* Yields { text, stats, finish, name of the model } for each chunk of an answer. */
export async function* complete(request, signal) {
    const response = await call("v1/chat/completions", {
        method: "POST",
        body: JSON.stringify({ ...request, stream: true, stats: true }),
        signal,
    });
    let finished = false;
    for await (const data of events(response.body)) {
        if (data === "[DONE]") return;
        let chunk;
        try {
            chunk = JSON.parse(data);
        } catch {
            throw new ApiError(-1, "The server sent something that is not JSON.");
        }
        if (chunk.error) throw new ApiError(-1, String(chunk.error.message ?? "The server reported an error."));
        const choice = chunk.choices?.[0];
        const text = choice?.delta?.content;
        finished ||= Boolean(choice?.finish_reason);
        yield {
            text: typeof text === "string" ? text : "", stats: chunk.stats ?? null, finish: choice?.finish_reason ?? null,
            name: typeof chunk.model === "string" ? chunk.model : "",
        };
    }
    if (!finished) throw new ApiError(-1, "The connection broke off.");
}
