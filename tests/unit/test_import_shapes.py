"""The import tool: numbers are for ever, and the list and the tree agree."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.import_shapes import ROOT, ContractError, generate, stale_files

TAG = 'Tag = "Key Value"'
FILE = "mallee/ec2/v1/tag.proto"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the contracts, to be changed."""
    shutil.copytree(ROOT, tmp_path / "proto")
    return tmp_path / "proto"


def edit(tree: Path, old: str, new: str) -> str:
    """Changes the list, writes what it now says, and gives the file of tags."""
    contract = tree / "contract.toml"
    text = contract.read_text()
    assert old in text
    contract.write_text(text.replace(old, new))
    for path, content in generate(tree).items():
        (tree / path).write_text(content)
    return (tree / FILE).read_text()


def test_the_tree_is_what_the_list_says() -> None:
    assert stale_files(ROOT, generate()) == []


def test_order_in_the_list_changes_no_number(tree: Path) -> None:
    text = edit(tree, TAG, 'Tag = "Value Key"')
    assert "message Tag {\n  optional string key = 1;\n  optional string value = 2;\n}" in text


def test_a_member_taken_out_is_reserved_and_gets_its_number_back(tree: Path) -> None:
    without = edit(tree, TAG, 'Tag = "Value"')
    assert 'message Tag {\n  reserved 1;\n  reserved "key";\n  optional string value = 2;\n}' in without
    again = edit(tree, 'Tag = "Value"', TAG)
    assert "message Tag {\n  optional string key = 1;\n  optional string value = 2;\n}" in again


def test_a_new_member_is_appended(tree: Path) -> None:
    edit(tree, '"Key ResourceId ResourceType Value"', '"Key ResourceType Value"')
    request = "UnmonitorInstancesRequest"
    text = edit(tree, f'{request} = "InstanceIds DryRun"', f'{request} = "MetricCategoryIds InstanceIds DryRun"')
    assert '  reserved 2;\n  reserved "resource_id";' in text
    instance = (tree / "mallee/ec2/v1/instance.proto").read_text()
    assert "repeated string metric_category_ids = 3;" in instance


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (TAG, 'Tag = "Key Colour"', "Tag has no member Colour"),
        (TAG, "", "add a line for Tag, of its members: Tag = "),
        (TAG, TAG + '\nIpam = "IpamId"', "no action reaches Ipam"),
        ('GetConsoleOutput = "The', 'MakeCoffee = "The', "AWS has no action MakeCoffee"),
    ],
)
def test_a_list_that_contradicts_the_model_is_refused(tree: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint):
        edit(tree, old, new)
