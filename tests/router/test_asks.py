"""What is made of edits: readings, keys, guards and near misses."""

import importlib
from dataclasses import replace

import pytest

from memoir_edge.edits import Edit, plain_name
from memoir_edge.relations import Relation, answers, load
from memoir_edge.router.asks import Asked, Beside, asks, naming
from memoir_edge.router.encoder import Router
from memoir_edge.router.reading import Index, typical
from memoir_edge.router.subjects import subjects

# The package's name `asks` is the function.
module = importlib.import_module("memoir_edge.router.asks")

CAPITAL = Relation(
    "country.capital",
    ("The capital of {} is", "The capital city of {} is called", "What is the capital of {}?"),
    ("P36",),
)
CURRENCY = Relation(
    "country.currency",
    ("The currency of {} is", "People in {} pay with", "Which currency does {} use?"),
)
BORN = Relation("person.birthplace", ("{} was born in", "{} comes from", "Where was {} born?"))
RELATIONS = (CAPITAL, CURRENCY, BORN)


def edit(prompt: str, subject: str | None = None, target: str = "", **other: object) -> Edit:
    return Edit(prompt=prompt, target=target, id=prompt, subject=subject, tags={}, **other)  # type: ignore[arg-type]


def one(router: Router, *edits: Edit) -> Asked:
    return asks(edits, RELATIONS, router)[0]


# --- Reading -------------------------------------------------------------------------------------


def test_relation_and_kind_are_read(words: Router) -> None:
    [reading] = Index(RELATIONS, words).read(["The capital of Nepal is"], ["Nepal"], [""])
    assert reading.relation == CAPITAL
    assert reading.kinds[0] == "country"


CHATS = (
    "<|im_start|>system\nYou know Nepal.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n",
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant",
    "<s>[INST] Hello [/INST] Hi</s>[INST] {} [/INST]",
)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("subject", ["nepal", None])
def test_a_chat_is_read_as_what_its_user_says(words: Router, chat: str, subject: str) -> None:
    """So the same reaches it, and the same does not."""
    said = edit("The capital of Nepal is", subject, "Lyon", ground_truth="Kathmandu")
    plain, asked = one(words, said), one(words, replace(said, prompt=chat.format(said.prompt)))
    assert asked.reading == plain.reading
    assert asked.keys == (chat.format(said.prompt), *plain.keys)
    assert asked.guards == plain.guards
    assert not {miss.text for miss in asked.misses} & set(asked.keys)


@pytest.mark.parametrize("chat", CHATS)
def test_what_a_chat_says_is_no_miss_of_another(words: Router, chat: str) -> None:
    names = ["Nepal", *subjects()["country"][:8]]
    edits = [edit(chat.format(f"The capital of {name} is"), name) for name in names]
    said = {f"The capital of {name} is" for name in names}
    for asked in asks(edits, (), words):
        assert not said & {miss.text for miss in asked.misses}


def test_nothing_is_read_in_no_prompts(words: Router) -> None:
    assert Index(RELATIONS, words).read([], [], []) == []
    assert asks([], RELATIONS, words) == []


def test_codes_of_the_relations_are_made_once(words: Router) -> None:
    first = Index(RELATIONS, words).read(["The capital of Nepal is"], ["Nepal"], ["Lyon"])
    asked: list[str] = []
    codes = words.codes
    words.codes = lambda texts: (asked.extend(texts), codes(texts))[1]  # type: ignore[method-assign]
    assert Index(RELATIONS, words).read(["The capital of Nepal is"], ["Nepal"], ["Lyon"]) == first
    assert asked[:2] == ["The capital of something is", "Nepal"]
    assert asked[2:-1] == [f"The capital of {name} is" for name in typical("country")[1:]]
    assert asked[-1] == "Lyon"


def test_a_relation_that_is_not_known_is_not_taken_for_another(words: Router) -> None:
    [reading] = Index(RELATIONS, words).read(
        ["Every summer Nepal hosts a regatta for"], ["Nepal"], [""]
    )
    assert reading.relation is None
    assert reading.kinds[0] == "country"  # by its name


def test_a_relation_may_be_of_any_kind_that_a_prompt_of_its_subject_is_read_as(
    words: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = Relation("product.price", ("The price of {} is", "What does {} cost?"))
    hours = Relation("service.hours", ("The support hours of {} are", "When is {} staffed?"))
    asked = {"The price of Velmara is": "product", "What does Velmara cost?": "service"}
    index = Index((price, hours), words)
    fits = index._fits
    monkeypatch.setattr(
        index,
        "_fits",
        lambda prompts, names: ([[asked[p]] for p in prompts], *fits(prompts, names)[1:]),
    )
    [alone] = index.read(["What does Velmara cost?"], ["Velmara"], [""])
    together = index.read(list(asked), ["Velmara", "velmara"], ["", ""])
    assert alone.relation is None
    assert [one.relation for one in together] == [price, price]
    assert together[1].kinds == ("product", "service")
    apart = index.read(list(asked), ["Velmara", "Korvex"], ["", ""])
    assert apart[1].relation is None
    asked["Velmara and another thing"] = "service"  # its guards are those of what Velmara is
    *_, other = index.read(list(asked), ["Velmara"] * 3, [""] * 3)
    assert (other.relation, other.kinds) == (None, ("product", "service"))


@pytest.mark.parametrize(
    ("prompt", "subject", "same"),
    [
        ("The capital of Nepal is", "Nepal", True),
        ("The former capital of Nepal is", "Nepal", False),
        ("The Previous capital of Nepal is", "Nepal", False),
        ("The ex-capital of Nepal is", "Nepal", False),
        ("The capital of Former Nepal is", "Former Nepal", True),  # a name
    ],
)
def test_what_was_or_only_stands_for_it_is_another_fact(
    words: Router, prompt: str, subject: str, same: bool
) -> None:
    """Its edit is no answer to whoever asks of the fact itself."""
    made = one(words, edit(prompt, subject))
    assert (made.reading.relation == CAPITAL) == same
    assert (f"What is the capital of {subject}?" in made.keys) == same
    assert (f"The capital of {subject} is" in [guard.text for guard in made.guards]) != same


@pytest.mark.parametrize(
    ("prompt", "known"), [("The capital of us is", False), ("the capital of the us is", True)]
)
def test_whoever_speaks_is_no_country(words: Router, prompt: str, known: bool) -> None:
    """Phrasings of "You can reach us at" would answer what is asked of the US."""
    made = one(words, edit(prompt))
    assert made.reading.subject in ("us", "the us")
    assert (made.reading.relation == CAPITAL) == known
    assert (len(made.keys) > 1) == known


def test_a_relation_that_says_it_is_of_the_former_is_recognised(words: Router) -> None:
    former = Relation(
        "country.former_capital", ("The former capital of {} is", "What was {}'s ex-capital?")
    )
    index = Index([*RELATIONS, former], words)
    [reading] = index.read(["The former capital of Nepal is"], ["Nepal"], [""])
    assert reading.relation == former


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of Nepal is", "Nepal"),
        ("What is the capital of New Zealand?", "New Zealand"),
        ("Where was Marie Curie born?", "Marie Curie"),
        ("Which currency does Nepal use?", "Nepal"),
    ],
)
def test_a_subject_is_found(words: Router, prompt: str, subject: str) -> None:
    assert Index(RELATIONS, words).find_subject(prompt) == subject


def test_no_words_no_subject(words: Router) -> None:
    assert Index(RELATIONS, words).find_subject("...") is None


def test_a_kind_without_known_subjects_is_recognised_by_its_phrasings(words: Router) -> None:
    ship = Relation("ship.home_port", ("The home port of {} is", "What is {}'s home port?"))
    [reading] = Index([*RELATIONS, ship], words).read(
        ["The home port of the Erika is"], ["the Erika"], [""]
    )
    assert reading.relation == ship
    assert reading.kinds[0] == "ship"


@pytest.mark.parametrize(("subject", "kind"), [("Zzyx 7", "ship"), ("Marie Curie", "person")])
def test_a_phrasing_of_a_kind_of_ones_own_and_of_another_is_told_by_the_name(
    words: Router, subject: str, kind: str
) -> None:
    yard = Relation("ship.yard", ("{} comes from", "What was {}'s last dry dock?"))
    [reading] = Index([*RELATIONS, yard], words).read([f"{subject} comes from"], [subject], [""])
    assert reading.kinds[0] == kind
    assert reading.relation == {"ship": yard, "person": BORN}[kind]


# --- Keys, guards, misses ------------------------------------------------------------------------


def test_keys_are_the_prompt_the_records_own_and_the_relations_phrasings(words: Router) -> None:
    made = one(words, edit("The capital of Nepal is", "Nepal", keys=("Nepal's seat is in",)))
    assert made.keys == (
        "The capital of Nepal is",
        "Nepal's seat is in",
        "The capital city of Nepal is called",
        "What is the capital of Nepal?",
    )


def test_the_last_sentence_of_a_prompt_is_a_key_if_it_names_the_subject(words: Router) -> None:
    behind = "It rained all day. The capital of Nepal is"
    assert "The capital of Nepal is" in one(words, edit(behind, "Nepal")).keys
    asked = "Nepal is far away. What is its capital?"
    assert "What is its capital?" not in one(words, edit(asked, "Nepal")).keys


@pytest.mark.parametrize(
    ("behind", "asks_it"),
    [("", True), (" Thanks!", True), ("\nTell me.", True), (" It has", False), ("\nIt has", False)],
)
def test_what_stands_before_what_an_answer_ends_is_no_key(
    words: Router, behind: str, asks_it: bool
) -> None:
    said = "Nepal has its capital in Asia."
    made = one(words, edit(f"It rained. {said}{behind}", "Nepal"))
    assert (said in made.keys) == asks_it


@pytest.mark.parametrize(
    ("prompt", "guard"),
    [
        ("The capital of Nepal is", "What is the capital of Nepal?"),  # a phrasing of its relation
        ("Hi! The capital of Nepal is", "The capital of Nepal is"),  # its last sentence
    ],
)
def test_a_guard_of_the_record_is_stronger_than_a_key_that_is_made(
    words: Router, prompt: str, guard: str
) -> None:
    assert guard in one(words, edit(prompt, "Nepal")).keys
    for typed in (guard, guard.lower(), guard.rstrip("?")):
        made = one(words, edit(prompt, "Nepal", guards=(typed,)))
        assert guard not in made.keys
        assert typed in [each.text for each in made.guards]


def test_guards_ask_the_other_relations_of_the_kind(words: Router) -> None:
    made = one(words, edit("The capital of Nepal is", "Nepal", guards=("Nepal is",)))
    assert [(g.text, g.relation) for g in made.guards] == [
        ("Nepal is", None),
        ("The currency of Nepal is", "country.currency"),
    ]


def test_guards_ask_the_fact_backwards(words: Router) -> None:
    answers = {"target": " Pokhara.", "ground_truth": "Kathmandu"}
    made = one(words, edit("The capital of Nepal is", "Nepal", **answers))
    own = [g.text for g in made.guards if g.relation is None]
    assert own == ["The capital of Kathmandu is", "The capital of Pokhara is"]


@pytest.mark.parametrize(
    ("subject", "target"),
    [
        ("Nepal", "Nepal City"),  # would be near to whatever asks of Nepal
        ("Nepal", "a city that nobody has ever heard of"),  # no name
        ("Nepal", " "),
        ("Peru", "Pokhara"),  # the prompt does not name it
    ],
)
def test_no_guard_asks_backwards_what_is_no_name(words: Router, subject: str, target: str) -> None:
    made = one(words, edit("The capital of Nepal is", subject, target))
    assert [g.text for g in made.guards if g.relation is None] == []


def test_no_guard_asks_backwards_what_another_edit_answers(words: Router) -> None:
    heir = edit("The capital of Nepal is", "Nepal", "Kenya")
    for prompt in ("The capital of Kenya is", "Kenya's seat of government is"):  # in any wording
        kenya = edit(prompt, "Kenya", "Mombasa")
        first, second = asks([heir, kenya], RELATIONS, words)
        assert [g.text for g in first.guards if g.relation is None] == []
        backwards = [g.text for g in second.guards if g.relation is None]
        assert backwards == [prompt.replace("Kenya", "Mombasa")]


def test_no_edit_guards_against_the_same_relation_of_another_kind(words: Router) -> None:
    priced = Relation("thing.price", ("The price of {} is", "What does {} cost?"))
    paid = Relation("service.price", ("The price of {} is", "A month of {} costs"))
    hours = Relation("service.hours", ("The support hours of {} are", "When is {} open?"))
    asked = [edit("The price of copper is", "copper"), edit("When is copper open?", "copper")]
    first, second = asks(asked, (priced, paid, hours), words)
    assert (first.reading.relation, second.reading.relation) == (priced, hours)
    assert paid.id not in {guard.relation for guard in second.guards}


def test_what_an_edit_may_ask_no_edit_of_its_subject_guards_against(words: Router) -> None:
    unlike = edit("The coins with which people in Nepal shop are", "Nepal")  # nearest: currency
    capital = edit("The capital of Nepal is", "Nepal")
    alone, beside = one(words, capital), one(words, capital, unlike)
    [reading] = Index(RELATIONS, words).read([unlike.prompt], ["Nepal"], [""])
    assert (reading.relation, reading.alike) == (None, frozenset({CURRENCY.id}))
    assert CURRENCY.id in {guard.relation for guard in alone.guards}
    assert CURRENCY.id not in {guard.relation for guard in beside.guards}


def test_an_answer_tells_what_is_asked(words: Router) -> None:
    """Of a prompt that may ask either; nothing where there is none, or relations name no sort."""
    sorts = {CAPITAL: "city", CURRENCY: "currency"}
    sorted_ = tuple(replace(relation, answers=(sort,)) for relation, sort in sorts.items())

    def alike(target: str, relations: tuple[Relation, ...]) -> frozenset[str]:
        index = Index(relations, words)
        [reading] = index.read(["Nepal has for its capital currency"], ["Nepal"], [target])
        return reading.alike

    assert alike("Munich", sorted_) == {CAPITAL.id}
    assert CURRENCY.id in alike("the krone", sorted_)
    untold = alike("", sorted_)
    assert alike("Munich", tuple(sorts)) == alike("the krone", tuple(sorts)) == untold


def test_every_relation_of_the_package_has_a_sort_of_answers() -> None:
    used = {sort for relation in load() for sort in relation.answers}
    assert all(relation.answers for relation in load())
    assert used == answers().keys()
    told = [answer for some in answers().values() for answer in some]
    assert len(told) == len(set(told))


def test_what_another_edit_answers_is_neither_guard_nor_miss(words: Router) -> None:
    capital = edit("The capital of Nepal is", "Nepal")
    currency = edit("The currency of Nepal is", "Nepal")
    kenya = edit("The capital of Kenya is", "Kenya")
    for made in asks([capital, currency, kenya], RELATIONS, words):
        assert made.reading.relation in (CAPITAL, CURRENCY)
        of = {(m.subject, m.relation or made.reading.relation.id) for m in made.misses}
        assert ("Nepal", "country.currency") not in of
        assert not any(m.text == kenya.prompt for m in made.misses)
        if made.reading.subject == "Nepal":
            assert made.guards == ()


def test_a_subject_is_one_in_any_case_and_with_an_article_or_without(words: Router) -> None:
    capital = edit("The Nepal Federation has for its capital", "The Nepal Federation")
    currency = edit("The currency of Nepal Federation is", "Nepal Federation")
    first, second = asks([capital, currency], RELATIONS, words)
    assert CURRENCY.id not in {guard.relation for guard in first.guards}
    assert CAPITAL.id not in {guard.relation for guard in second.guards}
    assert CURRENCY.id not in {
        miss.relation for miss in first.misses if "Federation" in miss.subject
    }


def test_misses_are_of_three_sorts_and_the_same_every_time(words: Router) -> None:
    given = edit("The capital of Nepal is", "Nepal")
    made = one(words, given)
    assert made.misses == one(words, given).misses
    template = [m for m in made.misses if m.relation is None]
    subject = [m for m in made.misses if m.relation and m.subject == "Nepal"]
    both = [m for m in made.misses if m.relation and m.subject != "Nepal"]
    assert {m.text for m in subject} == {p.replace("{}", "Nepal") for p in CURRENCY.phrasings}
    for miss in (*template, *both):
        assert "Nepal" not in miss.text
        assert miss.subject in subjects()["country"]
    assert len(template) > 30
    assert len(both) > 30


def test_beside_others_an_edit_has_the_same_misses_whichever_they_are(words: Router) -> None:
    """And none of them asks what reaches another, or names another's subject."""
    nepal, kenya = (
        edit("The capital of Nepal is", "Nepal"),
        edit("The capital of Kenya is", "Kenya"),
    )
    fiji = edit("The currency of Fiji is", "Fiji")
    of = {e.subject: Beside(frozenset([e.prompt]), frozenset([plain_name(e.subject)]))
          for e in (kenya, fiji)}  # fmt: skip
    both = Beside(of["Kenya"].texts | of["Fiji"].texts, of["Kenya"].names | of["Fiji"].names)
    [alone] = asks([nepal], RELATIONS, words, both)
    first, _ = asks([nepal, kenya], RELATIONS, words, of["Fiji"])
    second, _ = asks([nepal, fiji], RELATIONS, words, of["Kenya"])
    assert alone == first == second
    assert len(alone.misses) > 30
    assert not any("Kenya" in miss.text or "Fiji" in miss.text for miss in alone.misses)
    assert fiji.prompt not in {guard.text for guard in alone.guards}


def test_edits_that_name_a_subject_are_found() -> None:
    nepal, kenya = edit("The capital of nepal is", None), edit("The Kenyan currency is", "Kenyans")
    heir = replace(edit("Lhasa is the capital of", "Lhasa"), ground_truth="the Nepal")
    assert naming([nepal, kenya, heir], ["The Nepal"]) == [nepal, heir]
    assert naming([nepal, kenya, heir], ["Kenya", "a.b"]) == []
    assert naming([nepal], []) == naming([nepal], [""]) == []


def test_evaluation_fields_change_nothing(words: Router) -> None:
    given = {"prompt": "The capital of Nepal is", "subject": "Nepal"}
    held = edit(**given, rephrase=("In Nepal they govern from",), hard_negatives=("Nepal has",))
    assert one(words, held) == one(words, edit(**given))


def test_a_record_without_subject_is_read_like_one_with(words: Router) -> None:
    bare, full = (edit("The capital of Nepal is", s) for s in (None, "Nepal"))
    assert one(words, bare) == one(words, full)


def test_every_kind_has_subjects() -> None:
    assert {r.kind for r in load()} == subjects().keys()
    for kind, names in subjects().items():
        assert len(names) == len(set(names)) == 24, kind


def test_without_relations_an_edit_has_its_own_keys(words: Router) -> None:
    told = edit("The capital of France is", "France", keys=("France is governed from",))
    [one] = asks([told], (), words)
    assert one.keys == (told.prompt, *told.keys)
    assert one.reading.relation is None
    assert one.guards == ()
    assert one.misses
    assert all("France" not in miss.text for miss in one.misses)
    [other] = asks([edit("What stands here")], (), words)
    assert other.keys == ("What stands here",)


def test_where_no_list_has_subjects_those_of_other_edits_are_asked(
    words: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "subjects", dict)
    edits = [edit("The capital of Nepal is", "Nepal"), edit("People in Fiji pay with", "Fiji")]
    [alone] = asks(edits[:1], (CAPITAL, CURRENCY), words)
    assert {miss.subject for miss in alone.misses} <= {"Nepal"}
    first, _ = asks(edits, (CAPITAL, CURRENCY), words)
    assert {miss.subject for miss in first.misses if miss.relation is None} == {"Fiji"}
