"""Rendered fragments: told apart by content alone, and bounded."""

from __future__ import annotations

from google.protobuf.message import Message

from ec2_facade.protocol import QueryProtocol
from ec2_facade.protocol.fragments import Fragments
from mallee.ec2.v1 import instance_pb2


def instance(number: int, state: str = "running") -> instance_pb2.Instance:
    return instance_pb2.Instance(instance_id=f"i-{number:017x}", state=instance_pb2.InstanceState(name=state))


def test_what_was_rendered_is_not_rendered_again_until_it_changes() -> None:
    rendered: list[str] = []

    def render(message: Message) -> str:
        assert isinstance(message, instance_pb2.Instance)
        rendered.append(message.state.name)
        return f"{message.instance_id} {message.state.name}"

    fragments = Fragments(render)
    # Each its own object, as each answer of a service is.
    shown = [fragments(instance(1, state)) for state in ("pending", "running", "running", "pending")]
    assert [text.split()[1] for text in shown] == ["pending", "running", "running", "pending"]
    assert rendered == ["pending", "running"]


def test_the_least_recently_shown_goes_first() -> None:
    rendered: list[Message] = []

    def render(message: Message) -> str:
        rendered.append(message)
        return "x" * 10

    fragments = Fragments(render, most_bytes=30)
    for number in (1, 2, 3, 1, 4, 1, 2):
        fragments(instance(number))
        assert fragments.held_bytes == 10 * len(fragments) <= 30
    assert rendered == [instance(number) for number in (1, 2, 3, 4, 2)]


def test_one_endpoint_shows_every_change_of_an_instance() -> None:
    ec2 = QueryProtocol("ec2")
    operation = ec2.contract.operations["DescribeInstances"]
    for state in ("pending", "running", "pending", "shutting-down"):
        answer = instance_pb2.DescribeInstancesResult()
        answer.reservations.add().instances.extend([instance(1, state), instance(2)])
        body = ec2.render(operation, answer, "id").body.decode()
        assert body.count(f"<name>{state}</name>") == 1 + (state == "running")
        assert f"<instanceId>{instance(1).instance_id}</instanceId>" in body
