"""`fedrecon serve`."""

import argparse
import signal
from pathlib import Path

from recon import DataError

from .arguments import Commands, add_moved_sites, add_output, add_plugins, display, say


def add_serve(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="reconstruct beside the scanner: lines in, images out, by the streaming protocol of MRD",
        usage="fedrecon serve --mrd RUN --site SITE [options]\n       fedrecon serve --mrd --weights NAME [options]",
        epilog="Every slice is reconstructed when its last line is there. Images are not for diagnosis.",
    )
    serve.add_argument("--mrd", action="store_true", required=True, help="use the streaming protocol of MRD, over TCP")
    serve.add_argument("folder", metavar="RUN", type=Path, nargs="?", help="run folder; none with --weights")
    serve.add_argument("--weights", metavar="NAME", help="name of `fedrecon weights`, or a file of weights")
    serve.add_argument("--site", help="site of the run whose data consistency is used, or `unseen`")
    add_moved_sites(serve)
    text = "address to listen at (default: %(default)s, reached from this machine alone)"
    serve.add_argument("--address", default="127.0.0.1", metavar="HOST", help=text)
    text = "let --address be one that other machines reach: the protocol has neither encryption nor passwords"
    serve.add_argument("--allow-network", action="store_true", help=text)
    serve.add_argument("--port", type=int, default=9002, help="port, 0 for any free one (default: %(default)s)")
    text = "close a session when its client sends nothing, or takes no image, for so long (default: %(default)g)"
    serve.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help=text)
    serve.set_defaults(run=_serve)
    add_plugins(serve)
    add_output(serve)


def _serve(arguments: argparse.Namespace) -> None:
    if (arguments.folder is None) == (arguments.weights is None):
        found = "neither a run nor --weights" if arguments.folder is None else "a run and --weights"
        raise DataError(f"serve: found {found}, expected one of them; fedrecon serve --mrd RUN --site SITE")
    if arguments.weights is not None and (given := [key for key in ("site", "sites") if getattr(arguments, key)]):
        raise DataError(f"--{given[0]}: belongs to a run; leave it out with --weights")
    with display(arguments):
        from ..experiment import Method, method_of_run, method_of_weights
        from ..streaming import ServeOptions, serve

        options = ServeOptions(arguments.address, arguments.port, arguments.timeout, arguments.allow_network)
        method: Method
        if arguments.weights is None:
            method = method_of_run(arguments.folder, arguments.site, arguments.sites)
        else:
            method = method_of_weights(arguments.weights)
    # Without the display: it prints lines of progress, and a server may wait for days.
    # A service manager ends a program by SIGTERM: remove the lines of an open session as after Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(method, options, say)
    except KeyboardInterrupt:
        say("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
