"""`exchanged cluster`: what an administrator applies, and whether it is right."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchanged.cli import settings
from exchanged.cli.output import Exit, Format, Output, fail, show_json, show_table

if TYPE_CHECKING:
    from exchanged.config import Cluster, Configuration

app = typer.Typer(help="Target clusters: set up, check.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The cluster's name in the configuration.")]
SVID_SECONDS = 30
"""For the Workload API to give an SVID, and the cluster to be looked at with it."""


@app.command()
def setup(
    name: Name,
    config: settings.ConfigFile = Path("exchanged.yaml"),
    directory: Annotated[
        str, typer.Option(help="Where the files will lie on the control plane's hosts.")
    ] = "/etc/kubernetes/exchanged",
    output_directory: Annotated[
        Path | None, typer.Option(help="Write each file here; without it all are printed.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print what an administrator applies: rights, the fence, and the API server's configuration. Never a key."""
    from exchanged.cluster.setup import render

    configuration = settings.load(config)
    _known(name, configuration)
    try:
        files = render(configuration, name, directory)
    except FileNotFoundError as error:
        fail(_not_there(configuration, error), Exit.UNAVAILABLE)
    except (OSError, ValueError) as error:
        fail(f"{name} cannot be set up: {error}", Exit.USAGE)
    if output_directory is not None:
        _written(files, output_directory, output)
    elif output is Format.JSON:
        show_json({"files": [{"name": file, "text": text} for file, text in files]})
    else:
        for file, text in files:
            print(f"# ---- {file}\n{text}")


def _not_there(configuration: "Configuration", error: FileNotFoundError) -> str:
    """A CA made here would be another than the daemon's, should this be another machine."""
    if str(error.filename) == str(configuration.state / "ca" / "ca.crt"):
        return (
            f"{error.filename} is not there: the daemon makes its CA when it first starts. Start it once, and run this "
            "where its state folder is; or give doors.http and doors.authorizer a tls of their own"
        )
    return f"{error.filename} is not there"


def _written(files: list[tuple[str, str]], folder: Path, output: Format) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files:
            (folder / file).write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{folder} cannot be written to: {error.strerror}", Exit.USAGE)
    paths = [str(folder / file) for file, _ in files]
    if output is Format.JSON:
        show_json({"files": [{"name": file, "path": path} for (file, _), path in zip(files, paths, strict=True)]})
    else:
        print("\n".join(paths))


@app.command()
def check(name: Name, config: settings.ConfigFile = Path("exchanged.yaml"), output: Output = Format.TABLE) -> None:
    """Tell what is wrong at a cluster, or wider than it looks. Exit code 1 if something is wrong."""
    from exchanged.errors import ExchangeError

    configuration = settings.load(config)
    _known(name, configuration)
    try:
        findings = asyncio.run(_checked(configuration, name))
    except (ExchangeError, OSError, ValueError) as error:
        fail(getattr(error, "detail", "") or str(error), Exit.UNAVAILABLE)
    if output is Format.JSON:
        show_json([finding.as_json() for finding in findings])
    else:
        show_table(
            ("", "what", "remedy"), ((each.level, each.what, each.remedy) for each in findings), empty="all is well"
        )
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(Exit.REFUSED)


async def _checked(configuration: "Configuration", name: str) -> list[Any]:
    from exchanged.app import now, svid, workload_api
    from exchanged.clusters import checked
    from exchanged.model import ClusterName

    credential = configuration.clusters[name].credential
    if credential is None or not credential.svid:
        return await checked(configuration, ClusterName(name), now)
    api = workload_api(configuration)
    following = asyncio.create_task(api.run()) if api is not None else None
    try:
        async with asyncio.timeout(SVID_SECONDS):
            return await checked(configuration, ClusterName(name), now, svid(configuration, api))
    finally:
        if following is not None:
            following.cancel()


@app.command("client-certificate")
def client_certificate(
    name: Name,
    directory: Annotated[Path, typer.Option(help="Where client.crt and client.key are written.")],
    config: settings.ConfigFile = Path("exchanged.yaml"),
    output: Output = Format.TABLE,
) -> None:
    """Issue the certificate with which this cluster's API server asks the authorizer (mode authorizer).

    It is of the cluster's own CA in the daemon's state folder, which is made if it is not there: run this on its host.
    """
    from exchanged.app import now
    from exchanged.clusters import client_authority
    from exchanged.keys.files import write_private
    from exchanged.model import ClusterName

    configuration = settings.load(config)
    if _known(name, configuration).client_certificate_authority is not None:
        fail(f"clusters.{name}.clientCertificateAuthority is another authority; ask that one", Exit.USAGE)
    certificate, key = directory / "client.crt", directory / "client.key"
    try:
        configuration.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        pair = client_authority(configuration, ClusterName(name), now).client(f"kube-apiserver of {name}")
        write_private(certificate, pair.chain_pem)
        write_private(key, pair.key_pem)
    except (OSError, ValueError) as error:
        fail(f"no certificate could be issued: {error}", Exit.UNAVAILABLE)
    if output is Format.JSON:
        show_json({"certificate": str(certificate), "key": str(key), "not_after": pair.not_after.isoformat()})
    else:
        print(f"{certificate} and client.key, valid until {pair.not_after:%Y-%m-%d}")


def _known(name: str, configuration: "Configuration") -> "Cluster":
    cluster = configuration.clusters.get(name)
    if cluster is None:
        fail(f"no cluster is called {name!r}; the configuration has {', '.join(configuration.clusters)}", Exit.USAGE)
    return cluster
