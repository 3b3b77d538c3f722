"""What stands around the inputs: a text, or a chat template rendered within limits."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from frozen_jax import frames
from frozen_jax.errors import UserError
from frozen_jax.tokenizer import load_tokenizer
from tests import tiny_bpe, tiny_tokenizer

TEXTS = ["Who was Ada?", "  two spaces \n", "", "<|im_end|>", "{inputs}", "{{ x }}"]


def array(ids):
    return np.array(ids, np.int32)


@pytest.fixture
def folder(tmp_path):
    return tiny_bpe.write_folder(tmp_path)


@pytest.mark.parametrize(
    "template", ["{inputs}\n", "{inputs}", "Q: {inputs}", "<|im_start|>Question:\n{inputs}<tool>\nA:"]
)
def test_a_text_around_the_inputs_takes_the_place_of_their_end(folder, template):
    tokenizer = load_tokenizer(folder, template=template)
    before, after = (tokenizer.encode(text) for text in template.split("{inputs}"))
    for text in TEXTS:
        ids = tokenizer.encode(text)
        for tokens in (ids, [*ids, tokenizer.eos_id]) if text != "<|im_end|>" else ([*ids, tokenizer.eos_id],):
            framed = tokenizer.framed(array(tokens))
            assert (framed.tolist(), framed.dtype) == ([*before, *ids, *after], np.int32)
    assert tokenizer.frame_length == len(before) + len(after)
    assert tokenizer.template == template


def test_special_tokens_of_a_template_are_special_tokens(folder):
    tokenizer = load_tokenizer(folder, template="<|im_start|>{inputs}<tool><|im_end|>")
    assert tokenizer.framed(array([7, 2])).tolist() == [1, 7, tokenizer.vocab_size - 1, 2]


def test_without_a_template_tokens_stay_as_they_are(folder):
    tokenizer, tokens = load_tokenizer(folder), array([7, 2])
    assert tokenizer.framed(tokens) is tokens
    assert (tokenizer.frame_length, tokenizer.template) == (0, None)


@pytest.mark.parametrize("text", ["Who was Ada?", "a", "x\n\ny  z"])
def test_chat_gives_the_tokens_that_transformers_gives(folder, tmp_path, text):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    message = [{"role": "user", "content": text}]
    wanted = theirs.apply_chat_template(message, add_generation_prompt=True)["input_ids"]
    gguf = tiny_bpe.write_gguf(tmp_path / "lm.gguf", tiny_bpe.metadata("gpt-2"))
    for source in (folder, gguf):
        tokenizer = load_tokenizer(source, template="chat")
        assert tokenizer.framed(array([*tokenizer.encode(text), tokenizer.eos_id])).tolist() == list(wanted)


PLAIN = "{{ bos_token }}{{ messages[0]['content'] | trim }}{{ eos_token }}"


@pytest.mark.parametrize("place", ["text", "by name", "file"])
def test_where_a_folder_may_keep_its_chat_template(tmp_path, place):
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>"}
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": PLAIN}]
    config |= {"text": {"chat_template": PLAIN}, "by name": {"chat_template": named}, "file": {"chat_template": "no"}}[
        place
    ]
    folder = tiny_bpe.write_folder(tmp_path, config)
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(PLAIN)
    assert load_tokenizer(folder, template="chat").template == "<|im_start|>{inputs}<|im_end|>"


@pytest.mark.parametrize(
    ("jinja", "wanted"),
    [
        ("{% for m in messages %}\n  {% if m %}{{ m.content }}{% break %}{% endif %}\nno{% endfor %}", "{inputs}"),
        ("{{ {'a': 'ü'} | tojson }}{{ messages[0].content }}", '{"a": "ü"}{inputs}'),
        ("{% if tools is not none or documents is not none %}no{% endif %}{{ messages[0].content }}", "{inputs}"),
        ("{{ strftime_now('%Y') if strftime_now is defined else '2024' }} {{ messages[0].content }}", "2024 {inputs}"),
        ("{{ '{inputs}' }} {{ messages[0].content }}", "{inputs} {inputs}"),
    ],
)  # fmt: skip
def test_what_chat_templates_use(jinja, wanted):
    assert frames.INPUTS.join(frames.resolve("lm", "chat", {"chat_template": jinja})) == wanted


@pytest.mark.parametrize("template", ["", "Question:", "{inputs} and {inputs}", "Chat", "{input}"])
def test_a_template_needs_the_inputs_once(folder, template):
    with pytest.raises(UserError, match=r"lm_tokenizer.template is '.*'; it needs \{inputs\} once, or to be 'chat'"):
        load_tokenizer(folder, template=template)


def test_a_source_without_a_chat_template(tmp_path):
    with pytest.raises(
        UserError, match=r"json has no chat template; give lm_tokenizer.template a text with \{inputs\}"
    ):
        load_tokenizer(tiny_tokenizer.write(tmp_path), template="chat")


@pytest.mark.parametrize(
    ("jinja", "message"),
    [
        ("{% for m in messages %}", "the chat template of lm cannot be rendered: Unexpected end of template"),
        ("{{ raise_exception('system\nfirst') }}", "cannot be rendered: system first"),
        ("{{ strftime_now('%Y') }}{{ messages[0].content }}", "cannot be rendered: 'strftime_now' is undefined"),
        ("{{ messages.__class__.__mro__ }}", "cannot be rendered: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "cannot be rendered: access to attribute 'append'"),
        ("{{ 'a' * 10 ** 9 }}", r"cannot be rendered: a template may not use \*"),
        ("{% for i in range(99999) %}long{% endfor %}", "cannot be rendered: it makes more than 65,536 characters"),
        ("{#" + "a" * 70_000 + "#}", "cannot be rendered: it has 70,004 characters, more than 65,536"),
        ("Hello!", "of lm gives the user's message 0 times as it is, not once; give lm_tokenizer.template a text"),
        ("{{ messages[0].content | upper }}", "the user's message 0 times"),
        ("{{ messages[0].content | lower }}", "the user's message 0 times"),
        ("{{ messages[0].content | title }}", "the user's message 0 times"),
        ("{{ messages[0].content | escape }}", "the user's message 0 times"),
        ("{{ messages[0].content[:9] }}", "the user's message 0 times"),
        ("{{ messages[0].content }}{{ messages[-1].content }}", "the user's message 2 times"),
    ],
)
def test_a_chat_template_that_will_not_do_gets_one_line(jinja, message):
    with pytest.raises(UserError, match=message) as error:
        frames.resolve("lm", "chat", {"chat_template": jinja})
    assert "\n" not in str(error.value)


def test_a_chat_template_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(frames, "SECONDS", 0.01)
    slow = "{% for i in range(1500) %}{% for j in range(1500) %}{% endfor %}{% endfor %}{{ messages[0].content }}"
    with pytest.raises(UserError, match="cannot be rendered: it was not done after 0 seconds"):
        frames.resolve("lm", "chat", {"chat_template": slow})


# Vocabularies in which every text begins with a space: the words of the frame and of the inputs meet as in one text.


@pytest.fixture(params=["SentencePiece", "tokenizers"])
def spaced(request, tmp_path):
    """Llama 2's vocabulary in small, through either library: the path, and the tokens of a whole text."""
    corpus = ["the cat sat on the mat", "[INST] the dog [/INST] ran", "cat and dog"] * 10
    if request.param == "SentencePiece":
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2,
            unk_id=0, bos_id=1, eos_id=2, pad_id=-1, remove_extra_whitespaces=False, normalization_rule_name="identity",
            hard_vocab_limit=False,
        )  # fmt: skip
        (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
        return str(tmp_path), sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).encode
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # no token spans two words
    tokenizer.decoder = decoders.Replace("▁", " ")
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<unk>", "<s>", "</s>"], vocab_size=80, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path), lambda text: tokenizer.encode(text).ids


def test_a_space_around_the_inputs_is_not_doubled(spaced):
    source, encode = spaced
    tokenizer = load_tokenizer(source, template="<s>[INST] {inputs} [/INST]")
    framed = tokenizer.framed(array([*tokenizer.encode("the cat sat"), 2]))
    assert framed.tolist() == [1, *encode("[INST] the cat sat [/INST]")]
    assert tokenizer.pieces(framed.tolist())[0] == "<s>"


def test_config_files_that_hold_other_things_are_no_trouble(tmp_path):
    folder = tiny_bpe.write_folder(tmp_path, {"eos_token": "<|im_end|>", "chat_template": 3, "model_max_length": 1e30})
    with pytest.raises(UserError, match="has no chat template"):
        load_tokenizer(folder, template="chat")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps([]))
    with pytest.raises(UserError, match=r"special_tokens_map.json is no JSON object"):
        load_tokenizer(folder)
