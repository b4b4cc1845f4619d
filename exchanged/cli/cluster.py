"""`exchanged cluster`: what an administrator applies, and whether it is right."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exchanged.cli import settings
from exchanged.cli.output import Exit, Format, Output, fail, show_json, show_table

if TYPE_CHECKING:
    from exchanged.config import Configuration

app = typer.Typer(help="Target clusters: set up, check.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="The cluster's name in the configuration.")]


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
) -> None:
    """Print what an administrator applies: rights, the fence, and the API server's configuration. Never a key."""
    from exchanged.cluster.setup import render

    configuration = settings.load(config)
    _known(name, configuration.clusters)
    for file, text in render(configuration, name, directory):
        if output_directory is None:
            print(f"# ---- {file}\n{text}")
        else:
            output_directory.mkdir(parents=True, exist_ok=True)
            (output_directory / file).write_text(text, encoding="utf-8")
            print(output_directory / file)


@app.command()
def check(name: Name, config: settings.ConfigFile = Path("exchanged.yaml"), output: Output = Format.TABLE) -> None:
    """Tell what is wrong at a cluster, or wider than it looks. Exit code 1 if something is wrong."""
    from exchanged.cluster.check import Finding
    from exchanged.errors import ExchangeError

    configuration = settings.load(config)
    _known(name, configuration.clusters)
    try:
        findings: list[Finding] = asyncio.run(_checked(configuration, name))
    except (ExchangeError, ValueError) as error:
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
    from exchanged.cluster.check import check as check_cluster
    from exchanged.clusters import api_of
    from exchanged.model import ClusterName

    cluster = configuration.clusters[name]
    api = api_of(ClusterName(name), cluster, lambda _: None)
    try:
        return await check_cluster(name, cluster, api)
    finally:
        await api.close()


@app.command("client-certificate")
def client_certificate(
    name: Name,
    directory: Annotated[Path, typer.Option(help="Where client.crt and client.key are written.")],
    config: settings.ConfigFile = Path("exchanged.yaml"),
) -> None:
    """Issue the certificate with which this cluster's API server asks the authorizer (mode authorizer)."""
    from exchanged.app import now
    from exchanged.clusters import client_authority
    from exchanged.keys.files import write_private
    from exchanged.model import ClusterName

    configuration = settings.load(config)
    _known(name, configuration.clusters)
    if configuration.clusters[name].client_certificate_authority is not None:
        fail(f"clusters.{name}.clientCertificateAuthority is another authority; ask that one", Exit.USAGE)
    pair = client_authority(configuration, ClusterName(name), now).client(f"kube-apiserver of {name}")
    write_private(directory / "client.crt", pair.chain_pem)
    write_private(directory / "client.key", pair.key_pem)
    print(f"{directory / 'client.crt'} and client.key, valid until {pair.not_after:%Y-%m-%d}")


def _known(name: str, clusters: object) -> None:
    if not isinstance(clusters, dict) or name not in clusters:
        listed = ", ".join(clusters) if isinstance(clusters, dict) else ""
        fail(f"no cluster is called {name!r}; the configuration has {listed}", Exit.USAGE)
