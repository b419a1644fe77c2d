"""`mallee accounts`: who may use the cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.client import Client
from cli.options import Home, site
from cli.output import Json, out, plain_errors, print_json, print_table
from mallee.clc.v1 import service_pb2 as clc

app = typer.Typer(help="Accounts: each has its own keys, default VPC, images and buckets.", no_args_is_help=True)


@app.command()
def create(name: str, home: Home, as_json: Json = False) -> None:
    """Makes an account and its first access key, and prints them: the secret is shown to you."""
    with plain_errors():
        made = Client.of(site(home)).ask(lambda cloud: cloud.CreateAccount(clc.CreateAccountRequest(name=name)))
    shown = {
        "AccountId": made.account.account_id,
        "CanonicalUserId": made.account.canonical_user_id,
        "AccessKeyId": made.access_key_id,
        "SecretAccessKey": made.secret_access_key,
    }
    if as_json:
        print_json(shown)
        return
    for key, value in shown.items():
        out.print(f"{key:16} {value}", markup=False)
    out.print(f'Use it in a shell: eval "$(mallee credentials {made.account.name})"', markup=False)


@app.command(name="list")
def list_(home: Home, as_json: Json = False) -> None:
    """Lists the accounts."""
    with plain_errors():
        answer = Client.of(site(home)).ask(lambda cloud: cloud.ListAccounts(clc.ListAccountsRequest()))
    accounts = [
        {
            "AccountId": account.account_id,
            "Name": account.name,
            "CanonicalUserId": account.canonical_user_id,
            "Created": account.created.ToDatetime().isoformat(timespec="seconds") + "Z",
            "AccessKeyIds": list(account.access_key_ids),
        }
        for account in answer.accounts
    ]
    if as_json:
        print_json(accounts)
        return
    rows = [(str(a["Name"]), str(a["AccountId"]), str(a["Created"]), " ".join(a["AccessKeyIds"])) for a in accounts]
    print_table(("Name", "Account", "Created", "Access keys"), rows)


@app.command()
def add_certificate(
    account: Annotated[str, typer.Argument(help="Its name or id.")],
    certificate: Annotated[Path, typer.Argument(help="X.509 in PEM, with an RSA key.", exists=True, dir_okay=False)],
    home: Home,
    as_json: Json = False,
) -> None:
    """Lets bundles of images that this certificate has signed be registered by the account."""
    with plain_errors():
        request = clc.AddSigningCertificateRequest(account=account, certificate_pem=certificate.read_text())
        Client.of(site(home)).ask(lambda cloud: cloud.AddSigningCertificate(request))
    if as_json:
        print_json({"Account": account, "Certificate": str(certificate)})
    else:
        out.print(f"Bundles that {certificate} has signed are {account}'s own now.", markup=False)


@app.command()
def delete(
    account: Annotated[str, typer.Argument(help="Its name or id.")],
    home: Home,
    force: Annotated[bool, typer.Option("--force", help="Terminate and delete what it has, too.")] = False,
    as_json: Json = False,
) -> None:
    """Deletes an account."""
    request = clc.DeleteAccountRequest(account=account, force=force)
    with plain_errors():
        Client.of(site(home)).ask(lambda cloud: cloud.DeleteAccount(request))
    if as_json:
        print_json({"Deleted": account})
    else:
        out.print(f"The account {account} is gone.", markup=False)
