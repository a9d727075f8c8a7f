#!/usr/bin/env bash
# sparkhawk serve: serve.py asks it, as clients do and as they should not.
# shellcheck source-path=SCRIPTDIR source=lib.sh
python=${XDG_CACHE_HOME:-$HOME/.cache}/sparkhawk/venv/bin/python # with the openai package, where install_deps.sh has made it
[ -x "$python" ] || python=python3
. "$(dirname "$0")/lib.sh"

if ! command -v "$python" >/dev/null; then
    skip "python3 is not installed"
    finish
fi
for name in gemma3 griffin sparkhawk; do
    speaking $name
    mv speaking $name
done

# what stops it before it serves
refuses 1 'give an API key' serve -m griffin --host 0.0.0.0 --port 0
refuses 1 'nowhere.invalid' serve -m griffin --host nowhere.invalid --port 0
refuses 1 'missing: No such file' serve -m missing --port 0
refuses 1 'no-key: No such file' serve -m griffin --port 0 --api-key-file no-key
refuses 1 'the API key is empty' serve -m griffin --port 0 --api-key ''
refuses 2 'only one of --api-key' serve -m griffin --api-key x --api-key-file y
mkdir -m 755 open
refuses 1 'open: others can look into it' serve -m griffin --port 0 --cache-dir open
refuses 1 'griffin/config.json: not a directory' serve -m griffin --port 0 --cache-dir griffin/config.json

"$python" "$root/tests/cli/serve.py" >out 2>err
status=$?
cat err
sed '$d' out
read -r p f s < <(tail -n 1 out | grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' | tr -dc '0-9 \n')
check "serve.py runs to its end" [ -n "${s:-}" ]
passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0})) skipped=$((skipped + ${s:-0}))
finish
