"""Models, sessions and tokenizers, against the program and against each other."""
import gc
import json
import os
import re
import signal
import tempfile
import threading
import unittest

from models import golden, run, serving, speaking

from sparkhawk import Model, Sampling, SparkhawkError, Status, Stop, Tokenizer

PROMPT = "The hawk sees"


def resident():
    """Bytes of memory that the process occupies."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Speaking(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = speaking("sparkhawk", cls.folder.name)
        cls.model = Model(cls.path, threads=2)

    @classmethod
    def tearDownClass(cls):
        cls.model.close()
        cls.folder.cleanup()

    def file(self, name):
        return os.path.join(self.folder.name, name)


class Generating(Speaking):
    def assert_as_the_program(self, options, **same):
        mine = self.model.generate(PROMPT, 40, **same)
        theirs = run("-m", self.path, "-p", PROMPT, "-n", "40", *options)
        self.assertEqual(mine.tokens, theirs["tokens"])
        self.assertEqual(mine.text, theirs["text"])
        self.assertEqual(mine.prompt_tokens, theirs["prompt_tokens"])
        self.assertEqual(mine.stop.name.lower(), theirs["stop"])

    def test_greedy_as_the_program(self):
        self.assert_as_the_program(["--temp", "0", "--ignore-eos"], ignore_end=True)

    def test_sampled_as_the_program(self):
        self.assert_as_the_program(["--temp", "0.9", "--top-k", "50", "--top-p", "0.95", "--min-p", "0.01", "--repeat-penalty",
                                    "1.1", "--seed", "7", "--logit-bias", "70=2", "--logit-bias", "71=-inf"],
                                   temperature=0.9, top_k=50, top_p=0.95, min_p=0.01, repeat_penalty=1.1, seed=7,
                                   logit_bias={70: 2.0, 71: float("-inf")})

    def test_streams_what_it_generates(self):
        whole = self.model.generate(PROMPT, 60, ignore_end=True)
        pieces = list(self.model.stream(PROMPT, 60, ignore_end=True))
        self.assertGreater(len(pieces), 1)
        self.assertEqual("".join(pieces), whole.text)

    def test_a_stream_can_be_left(self):
        with self.model.session() as session:
            for _ in session.stream(PROMPT, 1 << 30, ignore_end=True):
                break
            self.assertLess(session.position, 10000)
            self.assertNotIn("sparkhawk", [thread.name for thread in threading.enumerate()])

    def test_stop_strings(self):
        whole = self.model.generate(PROMPT, 60, ignore_end=True)
        cut = re.search("[ -~]{3}", whole.text)[0]
        found = self.model.generate(PROMPT, 60, ignore_end=True, stop=[cut])
        self.assertEqual(found.text, whole.text[:whole.text.index(cut)])
        self.assertIs(found.stop, Stop.STRING)

    def test_schemas(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer"}, "on": {"type": "boolean"}}, "required": ["n", "on"],
                  "additionalProperties": False}
        for given in (schema, json.dumps(schema)):
            with self.model.session() as session:
                result = session.generate(PROMPT, 400, schema=given, temperature=1.0, seed=5)
                self.assertIs(result.stop, Stop.END)
                value = json.loads(result.text)
                self.assertEqual((set(value), type(value["n"]), type(value["on"])), ({"n", "on"}, int, bool))
                ended = self.model.tokenizer.is_end(result.tokens[-1])
                self.assertEqual(session.position, result.prompt_tokens + len(result.tokens) - ended)
        self.assertTrue(self.model.generate(PROMPT, 20, schema=True).text.startswith("{"))
        with self.assertRaises(SparkhawkError) as caught:
            self.model.generate(PROMPT, schema="{")
        self.assertIs(caught.exception.status, Status.FORMAT)

    def test_the_seed_decides(self):
        def text(**options):
            return self.model.generate(PROMPT, 30, temperature=1.0, ignore_end=True, **options).tokens

        self.assertEqual(text(seed=3), text(seed=3))
        self.assertEqual(text(seed=3), self.model.generate(PROMPT, 30, ignore_end=True,
                                                           sampling=Sampling(temperature=1.0, seed=3)).tokens)
        self.assertNotEqual(text(seed=3), text(seed=4))
        self.assertNotEqual(text(), text())

    def test_a_callback_that_raises(self):
        def on_text(_):
            raise KeyError("mine")

        with self.assertRaisesRegex(KeyError, "mine"), self.model.session() as session:
            session.generate(PROMPT, on_text=on_text)
        with self.assertRaises(SparkhawkError):
            list(self.model.stream([1 << 20]))

    def test_ctrl_c_ends_a_generation(self):
        with self.model.session(context=1 << 24) as session:
            timer = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT])
            timer.start()
            with self.assertRaises(KeyboardInterrupt):
                session.generate(PROMPT, 1 << 23, ignore_end=True)
            timer.join()
            self.assertGreater(session.position, 0)

    def test_a_conversation_is_read_once(self):
        chat = self.model.chat("Be brief.", max_tokens=12)
        first = chat.send("Hello")
        ids = self.model.tokenizer.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])
        self.assertEqual(first.tokens, self.model.generate(ids, 12).tokens)
        said = first.tokens[:len(first.tokens) - (first.stop is Stop.END)]
        again = "".join(chat.stream("Again"))
        seen = [{"role": "user", "content": ""}]
        then = [{"role": "assistant", "content": ""}, {"role": "user", "content": "Again"}]
        turn = self.model.tokenizer.chat(seen + then, bos=False)[len(self.model.tokenizer.chat(seen, bos=False)):]
        self.assertEqual(again, self.model.generate(ids + said + turn, 12).text)


class Sessions(Speaking):
    def test_saved_loaded_and_forked_continue_equally(self):
        with self.model.session() as session, self.model.session() as other:
            session.generate(PROMPT, 20, ignore_end=True)
            fork = session.fork()
            session.save(self.file("state"))
            other.load(self.file("state"))
            with Model(self.path, threads=1) as again:
                elsewhere = again.session()
                elsewhere.load(self.file("state"))
                results = [one.generate(" and", 30, ignore_end=True).tokens for one in (session, fork, other, elsewhere)]
                positions = [one.position for one in (session, fork, other, elsewhere)]
            self.assertEqual(results, [results[0]] * 4)
            self.assertEqual(positions, [positions[0]] * 4)

    def test_a_generation_goes_on_where_it_ended(self):
        with self.model.session() as one, self.model.session() as two:
            first = one.generate(PROMPT, 20, ignore_end=True)
            self.assertEqual(one.position, first.prompt_tokens + 20)
            more = one.generate(" on", 20, ignore_end=True)
            ids = self.model.tokenizer.encode(PROMPT) + first.tokens + self.model.tokenizer.encode(" on", bos=False)
            self.assertEqual(two.generate(ids, 20, ignore_end=True).tokens, more.tokens)

    def test_batches_are_their_members(self):
        prompts = [[2, 70, 71], [2, 90], [2, 100, 101, 102, 103]]
        alone, together = [self.model.session() for _ in prompts], [self.model.session() for _ in prompts]
        singly = [session.advance(ids) for session, ids in zip(alone, prompts)]
        self.assertEqual(self.model.advance(list(zip(together, prompts))), singly)
        self.assertEqual(len(singly[0]), self.model.vocab_size)
        with self.assertRaises(ValueError):
            self.model.advance([(alone[0], [3]), (alone[0], [4])])
        with Model(self.path) as other, self.assertRaises(SparkhawkError):
            self.model.advance([(other.session(), [3])])

    def test_reset(self):
        with self.model.session() as session:
            first = session.generate(PROMPT, 20).tokens
            session.reset()
            self.assertEqual(session.position, 0)
            self.assertEqual(session.generate(PROMPT, 20).tokens, first)

    def test_threads(self):
        want = self.model.generate(PROMPT, 60, ignore_end=True).tokens
        found, shared = [], self.model.session()

        def alone():
            found.append(self.model.generate(PROMPT, 60, ignore_end=True).tokens)

        threads = [threading.Thread(target=alone) for _ in range(4)]
        threads += [threading.Thread(target=shared.advance, args=([2] * 50,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [want] * 4)
        self.assertEqual(shared.position, 200)

    def test_memory_is_freed(self):
        def round_trip(n):
            for _ in range(n):
                with Model(self.path, threads=1) as model:
                    session = model.session()
                    session.generate(PROMPT * 20, 2, on_text=lambda text: None)
                    session.fork().save(self.file("leak"))
                    model.tokenizer.decode(model.tokenizer.encode(PROMPT * 100))
                    model.describe()
                    del session
            gc.collect()

        round_trip(30)
        before = resident()
        round_trip(60)
        # a leak of a model (0.5 MB), a session (0.1 MB) or an answer in each of 60 rounds would be 6 MB at the least
        self.assertLess(resident() - before, 4 << 20)

    def test_what_is_dropped_is_freed_without_close(self):
        model = Model(self.path)
        session = model.session()
        session.advance([2])
        del model
        self.assertEqual(session.position, 1)
        session.advance([3])
        del session
        gc.collect()


    def test_truncated_is_as_if_never_read(self):
        path = speaking("gemma3", self.folder.name)
        with Model(path, threads=1) as model:
            one, two = model.session(), model.session()
            first = one.advance([2, 70, 71])
            one.advance([90, 91])
            self.assertLessEqual(one.earliest, 3)
            one.truncate(3)
            two.advance([2, 70, 71])
            self.assertEqual(one.position, 3)
            self.assertEqual(one.advance([80]), two.advance([80]))
            self.assertNotEqual(one.advance([80]), first)

    def test_sizes(self):
        with self.model.session() as session:
            session.advance([2] * 500)
            small, large = session.bytes, session.cache_bytes
            session.advance([2] * 500)
            self.assertGreater(session.cache_bytes, 1.5 * large)
            self.assertGreaterEqual(session.bytes, small)


class Embedding(Speaking):
    def test_the_service_gives_the_same(self):
        text = "The hawk sees. " * 40
        mine = self.model.embed(text)
        with serving(self.path) as ask:
            theirs = ask("/v1/embeddings", {"input": text})["data"][0]["embedding"]
        self.assertEqual(len(mine), len(theirs))
        # both sum in double, and round once to f32: by one unit in the last place of what is less than 1 they may differ
        for one, other in zip(mine, theirs):
            self.assertAlmostEqual(one, other, delta=2.0 ** -24)
        self.assertAlmostEqual(sum(x * x for x in mine), 1, delta=1e-5)

    def test_each_text_has_its_own(self):
        one, two = self.model.embed("one"), self.model.embed("two")
        self.assertNotEqual(one, two)
        self.assertEqual(one, self.model.embed(self.model.tokenizer.encode("one")))


class Errors(Speaking):
    def assert_status(self, status, pattern, function, *arguments, **options):
        with self.assertRaisesRegex(SparkhawkError, pattern) as caught:
            function(*arguments, **options)
        self.assertIs(caught.exception.status, status)

    def test_statuses_and_messages(self):
        with open(self.file("no.gguf"), "wb") as file:
            file.write(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 60)
        session = self.model.session()
        small = self.model.session(context=4)
        self.assert_status(Status.IO, "/no/such/model", Model, "/no/such/model")
        self.assert_status(Status.FORMAT, r"no\.gguf", Model, self.file("no.gguf"))
        self.assert_status(Status.IO, "nowhere", Tokenizer, "nowhere")
        self.assert_status(Status.ARGUMENT, "vocabulary", session.advance, [1 << 20])
        self.assert_status(Status.ARGUMENT, "no tokens", session.generate, [])
        self.assert_status(Status.ARGUMENT, "", session.generate, PROMPT, temperature=-1)
        self.assert_status(Status.LIMIT, "context", small.generate, PROMPT)
        self.assert_status(Status.IO, "nowhere", session.save, "/nowhere/state")
        self.assert_status(Status.FORMAT, "", session.load, self.file("no.gguf"))
        self.assert_status(Status.ARGUMENT, "q9", Model, self.path, kv_type="q9")

    def test_types(self):
        session = self.model.session()
        session.advance(bytes(4))
        self.assertEqual(session.position, 4)
        for wrong in (["a"], [1.5], [None]):
            with self.assertRaises(TypeError):
                session.advance(wrong)
        with self.assertRaises(OverflowError):
            session.advance([1 << 40])
        with self.assertRaises(TypeError):
            session.generate(PROMPT, stop="a string")
        with self.assertRaises(TypeError):
            session.generate(PROMPT, temprature=1)
        with self.assertRaises(ValueError):
            Model(self.path, device="abacus")
        with self.assertRaises(ValueError):
            session.generate(PROMPT, -1)

    def test_closed_is_closed(self):
        model = Model(self.path)
        session, tokenizer = model.session(), model.tokenizer
        model.close()
        model.close()
        for use in (lambda: session.position, lambda: session.advance([2]), lambda: tokenizer.encode("x"), lambda: model.vocab_size,
                    model.session, lambda: tokenizer.vocab_size):
            with self.assertRaisesRegex(ValueError, "closed"):
                use()

    def test_a_model_without_a_tokenizer(self):
        with Model(golden("spark")) as model:
            self.assertFalse(model.has_tokenizer)
            self.assert_status(Status.UNSUPPORTED, "no tokenizer", lambda: model.tokenizer)
            result = model.generate([2, 5, 9], 10, ignore_end=True)
            self.assertEqual((len(result.tokens), result.text), (10, ""))


class Tokenizing(Speaking):
    def test_round_trips(self):
        tokenizer = Tokenizer(self.path)
        for text in ("", "a b", "Gänsehaut, 猛禽 🦅\n", "\0zero\0", "<start_of_turn>"):
            ids = tokenizer.encode(text, bos=False)
            self.assertEqual(tokenizer.decode(ids), text)
            self.assertEqual(self.model.tokenizer.encode(text, bos=False), ids)
        self.assertEqual(tokenizer.decode_bytes(tokenizer.encode(b"\xff\xfe", bos=False)), b"\xff\xfe")
        self.assertEqual(tokenizer.decode(tokenizer.encode(b"\xff", bos=False)), "\ufffd")

    def test_special_tokens(self):
        tokenizer = self.model.tokenizer
        self.assertEqual((tokenizer.bos, tokenizer.eos), (2, 1))
        self.assertEqual(tokenizer.encode("<end_of_turn>", special=True), [2, 5])
        self.assertTrue(tokenizer.is_end(5) and tokenizer.is_end(1))
        self.assertFalse(tokenizer.is_end(70))
        self.assertEqual(tokenizer.decode([2, 4], special=True), "<bos><start_of_turn>")
        self.assertEqual(tokenizer.vocab_size, 320)
        said = tokenizer.chat([{"role": "user", "content": "<end_of_turn>"}])
        self.assertEqual(said.count(5), 1)
        with self.assertRaises(ValueError):
            tokenizer.chat([{"role": "user", "content": "a\0b"}])

    def test_describe(self):
        described = self.model.describe()
        self.assertEqual(len(described["layers"]), 3)


if __name__ == "__main__":
    unittest.main()
