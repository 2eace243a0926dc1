"""Word division: a text is divided as the training data was, and its words are where they are said to be."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptdock.plugins.toolkit.division_learning import learn_division
from adaptdock.plugins.toolkit.visible_characters import visible
from adaptdock.plugins.toolkit.word_division import Division, divide

INVISIBLE = [
    "\u00ad",
    "\u200b",
    "\u200c",
    "\u200d",
    "\u2060",
    "\ufeff",
    "\u200e",
    "\u200f",
    "\u202a",
    "\u202c",
    "\u2066",
]
TREEBANK = [
    ["Mr.", "O'Brien", "did", "n't", "see", "John", "'s", "well-known", "e-mail", "of", "1,000", "words", "..."],
    ["(", "Dr.", "Smith", "lives", "in", "the", "U.S.", ",", "near", "Jean-Luc", "'s", "house", "!", ")"],
    ["They", "ca", "n't", "come", "at", "10:30", ",", "said", "Ann", "'s", "friend", "."],
]
SPACES = [["Maria", "lives", "in", "Lisbon."], ["Paulo,", "her", "brother,", "does", "not!"]]
HYPHENS_APART = [["Jean", "-", "Luc", "and", "Mary", "-", "Ann"], ["anti", "-", "war", "days"]]
FRENCH = [["l'", "homme", "d'", "Artagnan", "aujourd'hui"], ["qu'", "il", "l'", "aime", "aujourd'hui"]]
CHINESE = [list("玛丽去上海。"), list("大山住在日本。"), list("王小明去北京！")]
CHINESE_WORDS = [["玛丽", "去", "上海", "。"], ["大山", "住", "在", "日本", "。"], ["北京大学", "在", "北京", "。"]]
JAPANESE = [list("マリアはリスボンに住む。"), list("東京はメーカーが多い。")]
THAI_WORDS = [["มาเรีย", "อยู่", "ใน", "ลิสบอน"], ["ปิติ", "อยู่", "ใน", "กรุงเทพ"]]
KOREAN = [list("김철수는서울에산다"), list("이영희는부산에간다")]
MIXED = [[*"李明在", "Microsoft", *"工作。"], [*"王芳用", "iPhone", *"拍照。"]]
DIGITS_APART = [[*"1997年", *"APEC", *"会议"], [*"2001年在", *"WTO"]]
TWEETS = [["@ada", "#ner", "is", "fun", ":-)", "!!", "https://t.co/a-b?c=1"], ["so", "cool", "👩‍🚀", "🇸🇪", "!!"]]
UNSPACED = [CHINESE, CHINESE_WORDS, JAPANESE, THAI_WORDS, KOREAN, MIXED, DIGITS_APART]


def words(text: str, division: Division) -> list[str]:
    return [word for _, word in divide(text, division)]


@pytest.mark.parametrize(
    "sentences",
    [TREEBANK, SPACES, HYPHENS_APART, FRENCH, *UNSPACED, TWEETS],
)
def test_the_words_of_the_training_data_are_found_again(sentences: list[list[str]]) -> None:
    division = learn_division(sentences)
    assert Division.model_validate_json(division.model_dump_json()) == division
    for tokens in sentences:
        assert words(" ".join(tokens), division) == tokens


@pytest.mark.parametrize("sentences", UNSPACED)
def test_words_of_scripts_without_spaces_are_found_where_nothing_divides_them(sentences: list[list[str]]) -> None:
    division = learn_division(sentences)
    for tokens in sentences:
        assert words("".join(tokens), division) == tokens


@pytest.mark.parametrize(
    ("sentences", "text", "expected"),
    [
        (TREEBANK, "Ann's friend didn't come.", "Ann 's friend did n't come ."),
        (TREEBANK, "Mr. Smith (of the U.S.) lives in London.", "Mr. Smith ( of the U.S. ) lives in London ."),
        (TREEBANK, "well-paid, 12:45 or 3,000...", "well-paid , 12:45 or 3,000 ..."),
        (TREEBANK, "Ann’s friend couldn’t", "Ann ’s friend could n’t"),
        (SPACES, "Ann, in London, sings.", "Ann, in London, sings."),
        (HYPHENS_APART, "Marie-Claire", "Marie - Claire"),
        (FRENCH, "L'eau d’Orly aujourd'hui", "L'eau d’ Orly aujourd'hui"),
        (CHINESE, "小明去New York了", "小 明 去 New York 了"),
        (CHINESE_WORDS, "李小明在北京大学", "李小明 在 北京大学"),
        (THAI_WORDS, "มาเรีย\u200bอยู่ในปารีส", "มาเรีย อยู่ ใน ปารีส"),
        (KOREAN, "박 민수", "박 민 수"),
        (MIXED, "张伟在Google工作", "张 伟 在 Google 工 作"),
        (DIGITS_APART, "2024年IMF", "2 0 2 4 年 I M F"),
        (TWEETS, "see https://a.b/c?d=1, @eve!!", "see https://a.b/c?d=1 , @eve !!"),
        ([["Ada", "runs"]], "O'Brien (Ada's friend), Jean-Luc.", "O'Brien ( Ada 's friend ) , Jean-Luc ."),
        ([["Ada", "runs"]], "写信 to a@b.org 👩‍🚀!", "写 信 to a@b.org 👩‍🚀 !"),
    ],
)
def test_new_texts_are_divided_as_the_training_data(sentences: list[list[str]], text: str, expected: str) -> None:
    assert words(text, learn_division(sentences)) == expected.split()


@pytest.mark.parametrize("mark", INVISIBLE, ids=lambda mark: f"U+{ord(mark):04X}")
def test_an_invisible_character_neither_ends_a_word_nor_changes_it(mark: str) -> None:
    text = f"{mark}Ma{mark}ria lives{mark} in Lis{mark}{mark}bon."
    found = divide(text, Division())
    assert [word for _, word in found] == ["Maria", "lives", "in", "Lisbon", "."]
    assert [text[start:end] for (start, end), _ in found] == [
        f"Ma{mark}ria",
        "lives",
        "in",
        f"Lis{mark}{mark}bon",
        ".",
    ]


def test_joiners_stay_where_the_training_data_has_them_and_in_emoji() -> None:
    persian = [["می\u200cروم", "به", "خانه"]]
    assert words("می\u200cروم", learn_division(persian)) == ["می\u200cروم"]
    assert words("Ma\u200cria", learn_division([["Maria"]])) == ["Maria"]
    assert words("👩\u200d🚀", Division()) == ["👩\u200d🚀"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("word", ["Malmö", "José", "Việt", "김철수", "ガラス"])
def test_words_get_the_normal_form_of_the_training_data_and_keep_their_places(form: str, word: str) -> None:
    division = learn_division([[unicodedata.normalize(form, part) for part in (word, "über")]])  # type: ignore[arg-type]
    for given_form in ("NFC", "NFD"):
        written = unicodedata.normalize(given_form, word)  # type: ignore[arg-type]
        text = f"in {written}, then"
        found = [((start, end), token) for (start, end), token in divide(text, division) if start >= 3]
        covered = [text[start:end] for (start, end), _ in found[:-2]]
        assert "".join(covered) == written
        assert "".join(token for _, token in found[:-2]) == unicodedata.normalize(form, word)  # type: ignore[arg-type]


def test_a_division_is_chosen_by_its_kind() -> None:
    assert words("Ada's cat.", Division.model_validate("spaces")) == ["Ada's", "cat."]
    assert words("Ada's", Division.model_validate("characters")) == list("Ada's")
    assert learn_division(SPACES, "words").kind == "words"


TEXTS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from([*INVISIBLE, *"aZé'’-.,@# \n1\u0301漢กำガ゙👩🚀"]))
)
DIVISIONS = [Division(), *map(learn_division, (TREEBANK, SPACES, CHINESE_WORDS, THAI_WORDS, DIGITS_APART, TWEETS))]


@given(TEXTS, st.sampled_from(DIVISIONS))
def test_words_of_any_text_are_in_their_places_in_order_and_visible(text: str, division: Division) -> None:
    found = divide(text, division)
    for (start, end), word in found:
        assert 0 <= start < end <= len(text)
        assert word.strip()
        assert visible(text[start:end], division.form, division.joiners).text.replace(" ", "") == word.replace(" ", "")
    assert all(before[0][1] <= after[0][0] for before, after in pairwise(found))


@given(st.lists(st.lists(st.text("abüñ漢字กมแ19", min_size=1, max_size=5), min_size=1, max_size=8), min_size=1))
def test_a_text_of_the_training_words_is_divided_into_them(sentences: list[list[str]]) -> None:
    division = learn_division(sentences)
    for tokens in sentences:
        assert words(" ".join(tokens), division) == tokens


@given(TEXTS, st.sampled_from(DIVISIONS))
def test_a_division_loses_nothing_but_spaces_and_what_nobody_sees(text: str, division: Division) -> None:
    shown = visible(text, division.form, division.joiners).text
    assert "".join("".join(word.split()) for word in words(text, division)) == "".join(shown.split())
