"""`mallee credentials`: sets a shell up for an account, and what else speaks to the public API needs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli.client import Client
from cli.options import Home, site
from cli.output import Json, plain_errors, print_json
from common.config import CloudConfig
from mallee.clc.v1 import service_pb2 as clc

# The first AWS CLIs that follow AWS_ENDPOINT_URL, by major version:
# https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
_KNOWS_ENDPOINT_URL: Final = {1: (1, 29, 0), 2: (2, 13, 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str
    account_id: str

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
        }

    def boto3_client(self, service: str) -> Any:
        """A client of the public API, as any user has it."""
        import boto3

        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
        )


def endpoint_url(config: CloudConfig) -> str:
    return f"http://{config.facade_address}"


def fetch(client: Client, account: str) -> Credentials:
    """Raises CloudError."""
    answer = client.ask(lambda cloud: cloud.GetCredentials(clc.GetCredentialsRequest(account=account)))
    return Credentials(
        endpoint_url=endpoint_url(client.config),
        region=client.config.region,
        access_key_id=answer.access_key_id,
        secret_access_key=answer.secret_access_key,
        account_id=answer.account.account_id,
    )


def credentials(
    home: Home,
    account: Annotated[str, typer.Argument(help="Name or id; without it, the first account.")] = "",
    as_json: Json = False,
) -> None:
    """Prints what a shell needs to use the cloud: eval "$(mallee credentials)"."""
    with plain_errors():
        found = fetch(Client.of(site(home)), account)
    if as_json:
        print_json(found.environment() | {"AccountId": found.account_id})
        return
    for line in shell_lines(found.environment(), aws_folder(home)):
        typer.echo(line)


def shell_lines(environment: dict[str, str], folder: Path | None) -> list[str]:
    """To be read by any POSIX shell. A session token of another cloud would spoil the signature."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines.append("unset AWS_SESSION_TOKEN AWS_PROFILE")
    if folder:
        place = shlex.quote(str(folder))
        lines.append(f'case ":$PATH:" in *:{place}:*) ;; *) export PATH={place}:"$PATH" ;; esac')
    return lines


def aws_folder(home: Path) -> Path | None:
    """A folder with an `aws` to put on the PATH; None when there is one there that follows AWS_ENDPOINT_URL."""
    folder = home / "bin"
    there = shutil.which("aws")
    if there and Path(there).parent != folder and _follows_endpoint_url(there):
        return None
    return folder if (folder / "aws").exists() else None


def link_aws(home: Path) -> None:
    """The AWS CLI of the virtual environment, alone in a folder: nothing else of it comes onto the user's PATH."""
    aws = Path(sys.executable).parent / "aws"
    if not aws.exists():
        return
    folder = home / "bin"
    folder.mkdir(exist_ok=True)
    part = folder / ".aws.part"
    part.unlink(missing_ok=True)
    part.symlink_to(aws)
    part.replace(folder / "aws")


def _follows_endpoint_url(aws: str) -> bool:
    try:
        shown = subprocess.run([aws, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.match(r"aws-cli/(\d+)\.(\d+)\.(\d+)", shown)
    if not version:
        return False
    numbers = tuple(int(number) for number in version.groups())
    return numbers >= _KNOWS_ENDPOINT_URL.get(numbers[0], (0, 0, 0))
