"""`python -m ami_beam.worker`: a Python process that runs the pipeline's steps for Flink or another portable runner.

Takes the arguments of Beam's container contract (`--id`, `--control_endpoint`, `--provision_endpoint`, …), so that it
serves as the command of `--environment_type=PROCESS` on a machine where ami-beam is installed; the local Flink starts
its workers with it. Logs go to standard error. It ends when the runner closes the connection.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.worker import sdk_worker_main
from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor
from google.protobuf import json_format, text_format

from ami_beam.arenas import share_arenas
from ami_beam.ready_steps import keep_steps_ready

_PROVISION_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run until the runner needs no more work. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--id", required=True, help="the name the runner gave this worker")
    parser.add_argument("--control_endpoint", required=True, metavar="HOST:PORT", help="where the work comes from")
    parser.add_argument("--provision_endpoint", required=True, metavar="HOST:PORT", help="where the options come from")
    arguments, _ = parser.parse_known_args(argv)
    share_arenas()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Its start and its connections say nothing to an operator.
    logging.getLogger("apache_beam.runners.worker").setLevel(logging.WARNING)
    logging.getLogger("apache_beam.runners.worker.sdk_worker_main").setLevel(logging.ERROR)
    logging.getLogger("apache_beam.typehints.native_type_compatibility").setLevel(logging.WARNING)
    # It tells of every option that is not Beam's.
    logging.getLogger("apache_beam.options.pipeline_options").setLevel(logging.ERROR)
    # Some messages about the harness's own threads need it, as in the container.
    os.environ["WORKER_ID"] = arguments.id
    keep_steps_ready()
    environment = {
        "WORKER_ID": arguments.id,
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(
            endpoints_pb2.ApiServiceDescriptor(url=arguments.control_endpoint)
        ),
        "PIPELINE_OPTIONS": pipeline_options(arguments.provision_endpoint, arguments.id),
    }
    try:
        with tempfile.TemporaryDirectory(prefix="ami-beam-worker-") as nothing_staged:
            _, harness, _ = sdk_worker_main.create_harness({**environment, "SEMI_PERSISTENT_DIRECTORY": nothing_staged})
        harness.run()
    except grpc.RpcError as error:
        # How the end of a runner that is stopped looks from here.
        logging.getLogger("ami_beam.worker").info("The runner is gone: %s", error.code())
    return 0


def pipeline_options(provision_endpoint: str, worker_id: str) -> str:
    """The job's pipeline options as JSON. Raises grpc.RpcError when the runner does not answer."""
    with grpc.insecure_channel(provision_endpoint) as channel:
        identified = grpc.intercept_channel(channel, WorkerIdInterceptor(worker_id))
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(identified)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = stub.GetProvisionInfo(request, timeout=_PROVISION_SECONDS, wait_for_ready=True).info
    options = json_format.MessageToDict(info.pipeline_options)
    return json.dumps({name: value for name, value in options.items() if value is not None})


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # The harness leaves threads behind that are not daemons.
    os._exit(code)
