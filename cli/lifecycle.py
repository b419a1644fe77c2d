"""`mallee up`, `down` and `destroy`: the cloud on this machine comes, rests and goes."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.status import Status

from cli import credentials, images
from cli.client import Client
from cli.options import Home, default_home, site
from cli.output import Json, err, out, plain_errors, print_json
from common.errors import AlreadyExists, Unavailable
from deploy import cloud
from deploy.layout import DEFAULT_PORT_BASE, default_shape
from deploy.processes import Code
from deploy.s6 import SupervisorError
from mallee.clc.v1 import service_pb2 as clc

ADMIN_ACCOUNT = "admin"
_NODES_S = 30.0


def up(
    home: Home,
    zones: Annotated[int | None, typer.Option(help="Availability zones on this machine. [default: 1]")] = None,
    nodes: Annotated[int | None, typer.Option(help="Virtual hosts in each zone. [default: 1]")] = None,
    hypervisor: Annotated[
        str | None, typer.Option(help="auto, kvm, qemu, or fake: no virtual machines, no root. [default: auto]")
    ] = None,
    port_base: Annotated[int | None, typer.Option(help=f"The facade's port. [default: {DEFAULT_PORT_BASE}]")] = None,
    underlay: Annotated[str | None, typer.Option(help="Range that joins the virtual hosts.")] = None,
    public_pool: Annotated[str | None, typer.Option(help="Public addresses of the instances.")] = None,
    uplink: Annotated[str | None, typer.Option(help="Interface by which guests may leave this machine.")] = None,
    walrus_processes: Annotated[
        int | None, typer.Option(help="Processes that share the buckets, for good. [default: one for four cores]")
    ] = None,
    image: Annotated[bool, typer.Option(help="Build and register the small guest image.")] = True,
    as_json: Json = False,
) -> None:
    """Brings the cloud up, making it first if there is none. Repeating it is harmless."""
    asked = {
        "zones": zones,
        "nodes_per_zone": nodes,
        "hypervisor": hypervisor,
        "port_base": port_base,
        "underlay_cidr": underlay,
        "public_pool": public_pool,
        "uplink": uplink,
        "walrus_processes": walrus_processes,
    }
    if hypervisor not in (None, "auto", "kvm", "qemu", "fake"):
        raise typer.BadParameter("choose auto, kvm, qemu or fake", param_hint="--hypervisor")
    given = {name: value for name, value in asked.items() if value is not None}
    place = site(home)
    started = time.monotonic()
    with plain_errors():
        config = cloud.plan(
            place,
            lambda old: dataclasses.replace(old or default_shape(hypervisor), **given),  # type: ignore[arg-type]
        )
        with err.status("Starting") as status, place.locked():
            cloud.bring_up(place, config, _code(), lambda text: _tell(status, text))
            _tell(status, "Waiting for the nodes")
            client = Client.of(place)
            _wait_for_nodes(client)
            _ensure_first_account(client)
            credentials.link_aws(home)
        ready_s = time.monotonic() - started
        mine = credentials.fetch(client, ADMIN_ACCOUNT)
        machine_image = images.ensure(client, mine) if image else None
    if as_json:
        shown = {"Home": str(home), "EndpointUrl": mine.endpoint_url, "ReadyAfterSeconds": round(ready_s, 1)}
        print_json(shown | {"ImageId": machine_image})
        return
    out.print(f"The cloud is up after {ready_s:.0f} s: {mine.endpoint_url}", markup=False)
    if machine_image:
        fake = cloud.is_fake(config)
        out.print(
            "\nTo try it (no machine behind it to log in to):\n" if fake else "\nYour first machine, in five lines:\n"
        )
        for line in first_lines(home, machine_image)[: 4 if fake else 5]:
            typer.echo(line)


def down(
    home: Home,
    vms: Annotated[bool, typer.Option("--vms", help="Power the virtual machines off, too.")] = False,
    as_json: Json = False,
) -> None:
    """Stops the services and keeps all data. Virtual machines run on."""
    place = site(home)
    with plain_errors():
        place.config()
        with err.status("Stopping") as status, place.locked():
            cloud.take_down(place, _code(), vms=vms, tell=lambda text: _tell(status, text))
    if as_json:
        print_json({"Home": str(home), "State": "down"})
    else:
        out.print("The cloud is down; 'mallee up' brings it back.")


def destroy(
    home: Home,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Removes the cloud: virtual machines, images, buckets, networks, rules, files."""
    place = site(home)
    with plain_errors():
        place.config()
        if not yes:
            if not sys.stdin.isatty():
                raise cloud.NoCloud(
                    "this would remove the whole cloud, and nobody is here to ask: run 'mallee destroy --yes'"
                )
            typer.confirm(f"Remove the cloud in {home} with everything in it?", abort=True)
        with err.status("Removing") as status, place.locked():
            cloud.remove(place, lambda text: _tell(status, text))
    if as_json:
        print_json({"Home": str(home), "State": "gone"})
    else:
        of_root = "Debian packages, /opt/mallee and /var/cache/mallee stay."
        out.print(f"The cloud is gone. {of_root if os.geteuid() == 0 else 'The command itself stays.'}")


def first_lines(home: Path, machine_image: str) -> list[str]:
    """What to paste into a new shell: from nothing to a login."""
    where = "" if home == default_home() else f" --home {shlex.quote(str(home))}"
    mallee = _command()
    find = "--query 'Reservations[0].Instances[0].PublicIpAddress' --output text"
    return [
        f'eval "$({mallee} credentials{where})"',
        "[ -s first.pem ] || (umask 077; "
        "aws ec2 create-key-pair --key-name first --query KeyMaterial --output text > first.pem)",
        "aws ec2 authorize-security-group-ingress --group-name default --protocol tcp --port 22 --cidr 0.0.0.0/0",
        f"id=$(aws ec2 run-instances --image-id {machine_image} --instance-type t2.micro --key-name first "
        "--query 'Instances[0].InstanceId' --output text) && aws ec2 wait instance-running --instance-ids $id",
        # Addresses are used again by other machines, with other host keys.
        "ssh -i first.pem -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
        f"-o ConnectionAttempts=60 root@$(aws ec2 describe-instances --instance-ids $id {find})",
    ]


def _command() -> str:
    """This one: it is linked where an ordinary user's PATH may not look, or finds another cloud's first."""
    ours, found = _code().folder / "bin" / "mallee", shutil.which("mallee")
    if not ours.exists() or (found is not None and ours.samefile(found)):
        return "mallee"
    return shlex.quote(str(ours))


def _code() -> Code:
    return Code(python=sys.executable, folder=Path(__file__).resolve().parents[1])


def _tell(status: Status, text: str) -> None:
    status.update(text)
    if not err.is_terminal:
        err.print(f"{text} …", markup=False)


def _wait_for_nodes(client: Client) -> None:
    """Until every node offers its room: what is launched from here on finds it. Raises SupervisorError."""
    wanted = {node.name for zone in client.config.zones for node in zone.nodes}
    until = time.monotonic() + _NODES_S
    while True:
        try:
            answer = client.ask(lambda cloud: cloud.DescribeCloud(clc.DescribeCloudRequest()))
            missing = wanted - {
                node.node for zone in answer.zones if zone.connected for node in zone.nodes if node.alive
            }
        except Unavailable:
            missing = wanted
        if not missing:
            return
        if time.monotonic() > until:
            log = client.config.home_path / "log"
            raise SupervisorError(f"{', '.join(sorted(missing))} did not join in {_NODES_S:.0f} s: see {log}")
        time.sleep(0.1)


def _ensure_first_account(client: Client) -> None:
    try:
        client.ask(lambda cloud: cloud.CreateAccount(clc.CreateAccountRequest(name=ADMIN_ACCOUNT)))
    except AlreadyExists:
        return
