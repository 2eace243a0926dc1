import json
import sys

LORA = "[adaptdock.adapters]\n{} = {}:Method\n"


def rows(ran):
    assert ran.status == 0
    return {(row["kind"], row["name"], row["distribution"]): row for row in json.loads(ran.out)}


def test_built_in_plugins_are_shown_with_their_distribution(adapt):
    ran = adapt("plugins")
    assert ran.status == 0
    assert ran.out.splitlines()[0].split() == ["kind", "name", "group", "distribution", "version", "state"]
    found = rows(adapt("plugins", "--json"))
    assert found["method", "lora", "adaptdock"]["group"] == "adaptdock.adapters"
    assert found["task", "ner", "adaptdock"]["state"] == "registered"


def test_check_imports_each_plugin(adapt):
    found = rows(adapt("plugins", "--check", "--json"))
    assert found["method", "lora", "adaptdock"]["state"] == "works"


def test_a_broken_plugin_is_shown_with_the_reason_and_the_others_still_work(adapt, distribution):
    distribution("broken-one", LORA.format("cracked", "broken_one"), "import no_such_module\n")
    found = rows(adapt("plugins", "--check", "--json"))
    cracked = found["method", "cracked", "broken-one"]
    assert not cracked["usable"]
    assert "no_such_module" in cracked["state"]
    assert found["method", "lora", "adaptdock"]["usable"]
    assert rows(adapt("plugins", "--json"))["method", "cracked", "broken-one"]["state"] == "registered"


def test_a_name_taken_twice_is_shown_with_both_distributions(adapt, distribution):
    distribution("second-lora", LORA.format("lora", "second_lora"), "")
    found = rows(adapt("plugins", "--json"))
    for source in ("adaptdock", "second-lora"):
        state = found["method", "lora", source]["state"]
        assert "second-lora 1.0" in state
        assert "adaptdock" in state
    assert "second_lora" not in sys.modules
    adapt("train", "--task", "ner", "--method", "lora").failed(1, "second-lora 1.0", "uninstall one of them")


def test_a_command_named_like_one_of_ours_is_set_aside(adapt, distribution):
    distribution("usurper", "[adaptdock.commands]\ntrain = usurper:train\n", "")
    assert not rows(adapt("plugins", "--json"))["command", "train", "usurper"]["usable"]
    assert "From usurper" not in adapt("--help").out


def test_one_kind_can_be_asked_for(adapt):
    assert {kind for kind, _, _ in rows(adapt("plugins", "--kind", "task", "--json"))} == {"task"}
    adapt("plugins", "--kind", "tasks").failed(2, "did you mean task?")
