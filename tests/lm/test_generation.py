"""Writing texts: with and without a cache, in one batch and refilled, whatever stands beside a row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from frozen_jax.errors import UserError
from frozen_jax.lm import generation
from frozen_jax.lm.decoding import Beam, Greedy, Limits, Sample
from frozen_jax.lm.generation import Stop
from tests import tiny

LENGTH = 7
STRATEGIES = {"greedy": Greedy(), "sample": Sample(n=2, temperature=1.5, top_k=60, top_p=0.95), "beam": Beam(3, n=2)}
MODELS = {
    "t5": lambda: tiny.t5(3),
    "llama": lambda: tiny.llama(3),
    "llama with bos": lambda: tiny.llama(3, bos_first=True, bos_id=7),
    "prompt-tuned t5": lambda: tiny.prompt_tuning(tiny.t5(1)),
    "prompt-tuned llama": lambda: tiny.prompt_tuning(tiny.llama(1)),
    "prompt-tuned llama with bos": lambda: tiny.prompt_tuning(tiny.llama(1, bos_first=True, bos_id=7)),
    "ID-PT llama": lambda: tiny.input_dependent_prompt_tuning(tiny.llama(2)),
}
SEARCHED = [(name, strategy) for name in ("t5", "prompt-tuned llama") for strategy in STRATEGIES]
PAIRS = sorted({*((name, "greedy") for name in MODELS), *SEARCHED, ("llama", "beam")})
BATCH = tiny.batch(rows=9)
LENGTHS = BATCH.inputs_mask.sum(1)
INPUTS = [row[:length] for row, length in zip(BATCH.inputs, LENGTHS, strict=True)]


@functools.cache
def model(name):
    """An LM that ends texts now and then: the weights are random, so the end-of-sequence token is made likelier."""
    found = MODELS[name]()
    lm = getattr(found, "lm", found)
    head = lm.decoder.logits_dense.kernel
    head[...] = head[...].at[:, lm.eos_id].multiply(2.0)
    return found


@functools.cache
def alone(name, strategy):
    """What is written for all inputs, in one batch."""
    return model(name).generate(BATCH.inputs, max_length=LENGTH, inputs_lengths=LENGTHS, strategy=STRATEGIES[strategy])


@pytest.mark.parametrize("name", MODELS)
def test_texts_end(name):
    assert len(set(alone(name, "greedy").lengths.tolist())) > 1, "else the tests below say little"


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_the_cached_log_probabilities_are_those_of_the_uncached_forward(name, strategy):
    found = alone(name, strategy)
    whole = jax.nn.log_softmax(model(name).logits(BATCH.inputs, found.tokens, inputs_lengths=LENGTHS))
    expected = np.take_along_axis(np.asarray(whole), found.tokens[..., None], axis=2)[..., 0]
    real = np.arange(LENGTH) < found.lengths[:, None]
    np.testing.assert_allclose(found.log_probs, np.where(real, expected, 0), atol=1e-4)
    assert (found.tokens[~real] == 0).all()


@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_the_argmax_of_the_uncached_forward(name):
    found = alone(name, "greedy")
    best = np.asarray(model(name).logits(BATCH.inputs, found.tokens, inputs_lengths=LENGTHS)).argmax(-1)
    for row, argmax, length in zip(found.tokens, best, found.lengths, strict=True):
        np.testing.assert_array_equal(row[:length], argmax[:length])
        assert length == LENGTH or row[length - 1] == 1


@pytest.mark.parametrize(("name", "strategy"), [pair for pair in PAIRS if pair[1] != "beam"])
def test_tokens_are_those_that_the_uncached_forward_gives(name, strategy):
    """Step by step, what is drawn too: the strategy is given the logits of what it wrote."""
    found, strategy = alone(name, strategy), STRATEGIES[strategy]
    logits = model(name).logits(BATCH.inputs, found.tokens, inputs_lengths=LENGTHS)
    limits = Limits(LENGTH, (1,), 0)
    state = strategy.begin(jnp.arange(9), limits)
    for step in range(LENGTH):
        state = strategy.write(state, logits[:, step], limits).state
    np.testing.assert_array_equal(strategy.texts(state).tokens.reshape(found.tokens.shape), found.tokens)


@pytest.mark.parametrize("name", ["llama", "t5", "prompt-tuned llama"])
def test_beams_are_those_of_a_search_without_a_cache(name):
    """T5X's scores, hypothesis by hypothesis, from the uncached forward."""
    lm, beams = model(name), 3
    for row in range(2):
        live, done = [((), 0.0)], []
        for _ in range(LENGTH):
            ids = np.array([[*tokens, 0] for tokens, _ in live], np.int32)
            inputs = np.repeat(INPUTS[row][None], len(ids), axis=0)
            nats = jax.nn.log_softmax(lm.logits(inputs, ids, inputs_lengths=np.full(len(ids), len(INPUTS[row]))))
            longer = [
                ((*tokens, token), score + float(nats[i, -1, token]))
                for i, (tokens, score) in enumerate(live)
                for token in range(96)
            ]
            longer = sorted(longer, key=lambda it: -it[1])[: 2 * beams]
            done += [(score / ((5 + len(t)) / 6) ** 0.6, t) for t, score in longer if t[-1] == 1]
            live = [it for it in longer if it[0][-1] != 1][:beams]
        best = [list(tokens) for _, tokens in sorted(done, reverse=True)[:2]]
        found = alone(name, "beam")
        rows = [2 * row, 2 * row + 1][: len(best)]
        assert [found.tokens[r, : found.lengths[r]].tolist() for r in rows] == best


def many(name, strategy, order, slots, **settings):
    found = model(name).generate_many(
        [INPUTS[one] for one in order],
        max_length=LENGTH,
        slots=slots,
        strategy=STRATEGIES[strategy],
        ids=order,
        **settings,
    )
    return {order[number]: text for number, text in found}


@pytest.mark.parametrize(
    ("name", "strategy", "slots"),
    [*((*pair, 4) for pair in SEARCHED), ("ID-PT llama", "greedy", 5), ("t5", "sample", 1), ("llama", "sample", 1)],
)
def test_neither_batch_size_nor_order_nor_batch_mates_change_a_text(name, strategy, slots):
    whole, rows = alone(name, strategy), STRATEGIES[strategy].results
    order = [3, 8, 0, 2, 7, 5, 1, 6, 4]
    found = many(name, strategy, order, slots)
    assert sorted(found) == sorted(order)
    for one, text in found.items():
        for part, expected in zip(text[:2], whole[:2], strict=True):
            np.testing.assert_array_equal(part, expected[one * rows : (one + 1) * rows])
        np.testing.assert_allclose(text.log_probs, whole.log_probs[one * rows : (one + 1) * rows], atol=1e-4)


def test_rows_are_refilled_while_others_are_still_written(monkeypatch):
    """With 4 slots for 9 inputs, steps are far fewer than three batches of the longest text would take."""
    taken = []
    go_on = generation.Writer.go_on

    def counted(self, running, ended):
        before = int(running.cache.written.step)
        running, which = go_on(self, running, ended)
        taken.append(int(running.cache.written.step) - before)
        return running, which

    monkeypatch.setattr(generation.Writer, "go_on", counted)
    found = many("llama", "greedy", list(range(9)), 4)
    lengths = [int(found[one].lengths[0]) for one in range(9)]
    assert sum(taken) < 3 * (max(lengths) - 1)
    assert len(taken) > 3


def test_an_input_is_read_once_for_all_its_samples_and_a_prompt_once_for_all_batches(monkeypatch):
    lm = model("prompt-tuned llama")
    shapes = []
    prefill = type(lm.lm).prefill

    def noted(self, inputs, *arguments, **settings):
        shapes.append(inputs.shape)
        return prefill(self, inputs, *arguments, **settings)

    monkeypatch.setattr(type(lm.lm), "prefill", noted)
    list(lm.generate_many(INPUTS, max_length=3, slots=4, strategy=Sample(n=3, seed=11)))
    assert {shape[:2] for shape in shapes} == {(4, 16), (1, 16)}, "not 12 rows, and no place for the prompt of 5"


def test_an_empty_input_is_predicted_by_the_prompt():
    method = model("prompt-tuned llama")
    lengths = np.where(np.arange(9) == 2, 0, LENGTHS)
    found = method.generate(BATCH.inputs, max_length=3, inputs_lengths=lengths)
    best = np.asarray(method.logits(BATCH.inputs, found.tokens, inputs_lengths=lengths)).argmax(-1)
    assert found.tokens[2, 0] == best[2, 0]


def decode(tokens):
    return "".join(chr(97 + int(token) % 7) for token in tokens if token != 1)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_a_stop_string_ends_a_text_wherever_it_falls_between_two_looks(name):
    whole = alone(name, "greedy")
    row = int(np.argmax(whole.lengths))
    text = decode(whole.tokens[row, : whole.lengths[row]])
    stop = Stop(strings=(text[2:4],), decode=decode)
    found = many(name, "greedy", list(range(9)), 4, stop=stop)
    for one, cut in found.items():
        length = int(cut.lengths[0])
        np.testing.assert_array_equal(cut.tokens[0, :length], whole.tokens[one, :length])
        uncut = decode(whole.tokens[one, : whole.lengths[one]])
        assert stop.cut(decode(cut.tokens[0, :length])) == stop.cut(uncut)
        assert length == (uncut.index(text[2:4]) + 2 if text[2:4] in uncut else whole.lengths[one])
    assert found[row].lengths[0] < whole.lengths[row]


def test_a_stop_token_is_kept():
    whole = alone("llama", "greedy")
    row = int(np.argmax(whole.lengths))
    token = int(whole.tokens[row, 1])
    found = model("llama").generate(BATCH.inputs, max_length=LENGTH, inputs_lengths=LENGTHS, stop=Stop(ids=(token,)))
    length = whole.tokens[row].tolist().index(token) + 1
    assert found.lengths[row] == length
    np.testing.assert_array_equal(found.tokens[row, :length], whole.tokens[row, :length])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: model("llama").generate(BATCH.inputs, max_length=0), "max_length is 0; it must be at least 1"),
        (lambda: model("t5").generate(BATCH.inputs, max_length=-1), "max_length is -1; it must be at least 1"),
        (lambda: model("t5").generate(BATCH.inputs, max_length=2, stop=Stop(strings=("x",))), "give `decode`"),
        (lambda: Stop(strings=("a", "")), "an empty string ends every text"),
    ],
)
def test_what_cannot_be_is_refused(ask, message):
    with pytest.raises(UserError, match=message):
        ask()


def test_logits_that_are_not_numbers_are_named():
    lm = tiny.llama(5)
    lm.token_embedder.embedding[...] = lm.token_embedder.embedding[...].at[int(INPUTS[4][0])].set(jnp.nan)
    with pytest.raises(UserError, match="input 4: the logits of its token 1 are not numbers"):
        list(lm.generate_many(INPUTS[4:5], max_length=3, slots=2, ids=[4]))


@pytest.mark.parametrize("name", ["llama", "prompt-tuned llama", "prompt-tuned llama with bos"])
def test_what_does_not_fit_into_the_context_is_refused_by_how_much(name):
    method = MODELS[name]()
    method.context_length = 20 - ("bos" in name)
    prompt = 5 * ("prompt" in name)
    longest = int(LENGTHS.max())
    most = method.context_length - prompt - longest
    asks = [
        lambda more: method.generate(BATCH.inputs, max_length=most + more, inputs_lengths=LENGTHS),
        lambda more: list(method.generate_many(INPUTS, max_length=most + more, slots=4)),
        lambda more: method.score(BATCH.inputs, np.ones((9, most + more), np.int32), inputs_lengths=LENGTHS),
    ]
    for ask in asks:
        ask(0)
        with pytest.raises(UserError, match=rf"input \d has {longest} tokens.* is 3 more than the LM's context"):
            ask(3)


def test_nothing_asked_is_nothing_written():
    assert list(model("t5").generate_many([], max_length=3, slots=2)) == []


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("t5", "beam"), ("llama", "sample"), ("prompt-tuned llama with bos", "greedy"), ("prompt-tuned llama", "beam")],
)
def test_several_places_are_filled_at_once_and_the_last_ones_not_all(name, strategy, monkeypatch):
    monkeypatch.setattr(generation, "_REFILL_SHARE", 2)  # 4 places: 5 that wait come in as 2, 2 and 1
    whole, rows = alone(name, strategy), STRATEGIES[strategy].results
    found = many(name, strategy, list(range(9)), 4)
    for one in range(9):
        np.testing.assert_array_equal(found[one].tokens, whole.tokens[one * rows : (one + 1) * rows])


@pytest.mark.parametrize(
    "name", ["prompt-tuned llama", "prompt-tuned llama with bos", "ID-PT llama", "prompt-tuned t5"]
)
def test_an_empty_input_among_those_that_wait(name):
    inputs = [*INPUTS[:4], INPUTS[4][:0]]
    lengths = np.array([len(tokens) for tokens in inputs])
    whole = model(name).generate(BATCH.inputs[:5], max_length=LENGTH, inputs_lengths=lengths)
    for one, text in model(name).generate_many(inputs, max_length=LENGTH, slots=2):
        np.testing.assert_array_equal(text.tokens[0], whole.tokens[one])


def test_an_empty_input_has_to_stand_behind_something():
    empty = np.where(np.arange(9) == 2, 0, LENGTHS)
    with pytest.raises(UserError, match="input 2 is empty, and nothing stands before it; give it a token"):
        model("llama").generate(BATCH.inputs, max_length=2, inputs_lengths=empty)
    with pytest.raises(UserError, match="input 12 is empty"):
        list(model("llama").generate_many([INPUTS[0][:0]], max_length=2, slots=1, ids=[12]))
    assert model("llama with bos").generate(BATCH.inputs, max_length=2, inputs_lengths=empty).lengths.all()


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_no_rows_at_all(name):
    with pytest.raises(UserError, match="there are no inputs: give at least one row"):
        model(name).generate(BATCH.inputs[:0], max_length=2)


def test_a_prompt_is_read_once_for_all_that_come_after(monkeypatch):
    times = []
    read = generation.read_prompt_once
    monkeypatch.setattr(generation, "read_prompt_once", lambda *arguments: (times.append(1), read(*arguments))[1])
    list(model("prompt-tuned llama").generate_many(INPUTS, max_length=3, slots=2))
    assert times == [1]


@pytest.mark.parametrize("strategy", ["sample", "beam"])
def test_stop_strings_end_each_of_several_texts(strategy):
    whole = alone("llama", strategy)
    string = decode(whole.tokens[whole.lengths.argmax()])[1:3]
    stop = Stop(strings=(string,), decode=decode)
    found = model("llama").generate(
        BATCH.inputs, max_length=LENGTH, inputs_lengths=LENGTHS, strategy=STRATEGIES[strategy], stop=stop
    )
    assert (found.lengths < whole.lengths).any()
    for tokens, length, uncut, whole_length in zip(
        found.tokens, found.lengths, whole.tokens, whole.lengths, strict=True
    ):
        np.testing.assert_array_equal(tokens[:length], uncut[:length])
        assert (tokens[length:] == 0).all()
        said = decode(uncut[:whole_length])
        assert length == (said.index(string) + len(string) if string in said else whole_length)


def test_other_weights_write_other_texts():
    """Layers that were taken apart are those of the weights that are there now."""
    lm, other = tiny.llama(3), tiny.llama(4)
    ask = functools.partial(generation.Writer, strategy=Greedy(), max_length=LENGTH, stop=Stop())
    mask = np.arange(BATCH.inputs.shape[1])[None] < LENGTHS[:, None]
    before, wanted = (ask(one).write(BATCH.inputs, mask).tokens for one in (lm, other))
    nnx.update(lm, nnx.state(other))
    np.testing.assert_array_equal(ask(lm).write(BATCH.inputs, mask).tokens, wanted)
    assert (before != wanted).any()


def test_layers_are_taken_apart_once():
    lm = tiny.llama(3)
    first, second = (generation.Writer(lm, Greedy(), 2, Stop()) for _ in range(2))
    for one, other in zip(jax.tree.leaves(first._state), jax.tree.leaves(second._state), strict=True):
        assert one is other


def test_long_inputs_are_padded_by_an_eighth_at_most_and_short_ones_to_few_widths():
    widths = [generation.width_of(length) for length in range(1, 4097)]
    assert all(width >= length for length, width in enumerate(widths, 1))
    assert all(width <= 1.125 * length for length, width in enumerate(widths, 1) if length > 256)
    assert sorted(set(widths[:256])) == [16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert [generation.width_of(length) for length in (257, 542, 2078, 4096)] == [288, 576, 2304, 4096]


def test_a_prefill_is_as_wide_as_the_longest_input_asks_for(monkeypatch):
    seen = []
    start = generation.start_texts
    monkeypatch.setattr(generation, "start_texts", lambda *args: seen.append(args[-1].inputs.shape) or start(*args))
    inputs = [np.full(length, 5, np.int32) for length in (300, 20)]
    list(model("llama").generate_many(inputs, max_length=2, slots=1))
    assert seen == [(1, 320), (1, 24)]
