/* Light colouring of code: comments, strings, numbers, keywords and calls. It reads no grammar, so it is never sure. */
import { el } from "./dom.js";

const KEYWORDS = new Set(`abstract alias and as assert async await begin bool boolean break byte case catch char class const
constexpr continue crate def default defer del delete do done double dyn elif else elsif end enum esac except explicit export
extends extern false False fi final finally float fn for foreach from func function global go goto if impl implements import in
include inline instanceof int interface is lambda let local long loop match mod module move mut namespace new nil None nonlocal
not null nullptr operator or override package pass private protected pub public raise ref register require return self short
signed sizeof static str string struct super switch template then this throw throws trait true True try type typedef typename
typeof undefined union unless unsafe unsigned until use using var virtual void volatile when where while with yield`.split(/\s+/));
const SQL = new Set(`add all alter and as asc between by case create cross default delete desc distinct drop else end exists foreign
from full group having in index inner insert into is join key left like limit not null offset on or order outer primary references
right select set table then union unique update values view when where with`.split(/\s+/));

/* How a comment begins decides the family; all other names are of the first one. */
const FAMILIES = [
    [String.raw`//[^\n]*|/\*[\s\S]*?(?:\*/|$)`, ""],
    [String.raw`#[^\n]*`, `py python sh bash zsh fish shell console rb ruby yml yaml toml make makefile dockerfile perl pl r julia
        jl elixir nix cmake conf gdscript`],
    [String.raw`--[^\n]*`, "sql postgresql mysql sqlite lua hs haskell ada elm vhdl"],
    [String.raw`;[^\n]*`, "lisp elisp clojure scheme asm nasm ini"],
    [String.raw`%[^\n]*`, "tex latex matlab octave erlang prolog"],
    [String.raw`<!--[\s\S]*?(?:-->|$)`, "html xml svg vue xhtml"],
];
const PLAIN = new Set(["", "text", "txt", "plain", "plaintext", "output", "log", "md", "markdown"]);
const LIMIT = 200000; /* characters; longer code is shown as it is */

const families = new Map(FAMILIES.flatMap(([, names], i) => names.split(/\s+/).map((name) => [name, i])));
const patterns = FAMILIES.map(([comment], i) => {
    const quotes = [String.raw`"(?:\\.|[^"\\\n])*"?`, "'(?:\\\\.|[^'\\\\\\n])*'", "`(?:\\\\.|[^`\\\\])*`"];
    if (i === 1) quotes.unshift(String.raw`"""[\s\S]*?(?:"""|$)`, String.raw`'''[\s\S]*?(?:'''|$)`);
    const number = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*`;
    const word = String.raw`[A-Za-z_$@][\w$]*`;
    return new RegExp(`(?<comment>${comment})|(?<string>${quotes.join("|")})|(?<number>${number})|(?<word>${word})`, "g");
});

function kind(found, code, language) {
    const { comment, string, number, word } = found.groups;
    const after = code[found.index + found[0].length];
    if (comment) return "comment";
    if (string) return language === "json" && after === ":" ? "key" : "string";
    if (number) return "number";
    if (families.get(language) === 2 ? SQL.has(word.toLowerCase()) : KEYWORDS.has(word)) return "keyword";
    return after === "(" ? "call" : null;
}

/* The lines of a patch, by what they begin with. */
function patch(code) {
    const kinds = { "+": "string", "-": "removed", "@": "comment" };
    return code.split(/(?<=\n)/).map((line) => (kinds[line[0]] ? el("span", { class: kinds[line[0]] }, line) : line));
}

/* Nodes and strings that make up the code. */
export function highlight(code, language) {
    if (PLAIN.has(language) || code.length > LIMIT) return [code];
    if (language === "diff" || language === "patch") return patch(code);
    const out = [];
    let end = 0;
    for (const found of code.matchAll(patterns[families.get(language) ?? 0])) {
        const what = kind(found, code, language);
        if (!what) continue;
        if (found.index > end) out.push(code.slice(end, found.index));
        out.push(el("span", { class: what }, found[0]));
        end = found.index + found[0].length;
    }
    out.push(code.slice(end));
    return out;
}
