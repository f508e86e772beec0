#!/usr/bin/env python3
"""Lists a fleet, moves an instance, empties a host by a coordinator (`vmferry serve`), over mTLS, with nothing but stock grpcio.

    python3 -m venv venv && venv/bin/pip install -r docs/examples/python/requirements.txt
    mkdir gen
    venv/bin/python -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen \
        proto/vmferry/agent/v1/*.proto proto/vmferry/coordinator/v1/*.proto
    PYTHONPATH=gen venv/bin/python docs/examples/python/fleet.py --pki DIRECTORY \
        --coordinator fleet.example.org:7444 --instance web --destination node-31

Without --destination the best host is chosen; --drain HOST moves everything that runs there to others.

The coordinator does what is to be done with care; killed and started again with the same --id, this takes up where it was, and so does a drain.
"""

import argparse
import sys
import time
import uuid
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from vmferry.agent.v1 import instance_pb2, migration_pb2
from vmferry.coordinator.v1 import fleet_pb2, fleet_pb2_grpc

# Of these another try may be answered, by this coordinator or another.
PASSING = ("COORDINATOR_UNREACHABLE", "COORDINATOR_STOPPING")
# How long nobody may answer, in seconds.
PATIENCE = 60


def connect(address, pki):
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(pki / "ca.pem").read_bytes(),
        private_key=(pki / "key.pem").read_bytes(),
        certificate_chain=(pki / "cert.pem").read_bytes(),
    )
    return fleet_pb2_grpc.FleetServiceStub(grpc.secure_channel(address, credentials))


def show(fleet):
    for host in fleet.ListHosts(fleet_pb2.ListHostsRequest()).hosts:
        if host.WhichOneof("state") == "up":
            print(f"{host.up.name} in zone {host.up.zone}, {host.up.memory_available_bytes >> 20} MiB available")
        else:
            print(f"{host.endpoint.host}: {host.unreachable.message}")
    for instance in fleet.ListInstances(fleet_pb2.ListInstancesRequest()).instances:
        state = instance_pb2.InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_")
        print(f"  {instance.name}  {state}  on {instance.host}")


def insisting(call):
    """What a call tells that may be made again, and that is made again as long as nobody answers."""
    heard = time.monotonic()
    while True:
        try:
            for response in call():
                heard = time.monotonic()
                yield response
        except grpc.RpcError as error:
            reason, message = explain(error)
            if reason not in PASSING or time.monotonic() - heard > PATIENCE:
                raise SystemExit(f"{reason}: {message}") from error
            print(f"  {message}; asking again", file=sys.stderr)
        time.sleep(1)


def move(fleet, wish, migration_id):
    """Moves it. A repeat with the same id joins what goes on."""
    request = fleet_pb2.MigrateRequest(migration_id=migration_id, wish=wish)
    for response in insisting(lambda: fleet.Migrate(request)):
        event = response.WhichOneof("event")
        if event == "phase":
            print("  " + migration_pb2.Phase.Name(response.phase).removeprefix("PHASE_").lower())
        elif event == "progress":
            print(f"  {response.progress.percent} %")
        elif event == "chosen":
            print(f"  {response.chosen.host} is chosen")
        elif event == "waiting":
            print(f"  waits for {response.waiting.host}, {len(response.waiting.before)} come before it")
        elif event == "ended":
            return response.ended


def drain(fleet, host):
    """Empties a host. A repeat goes on with the guests that are left."""
    for response in insisting(lambda: fleet.Drain(fleet_pb2.DrainRequest(host=host))):
        event = response.event
        what = event.WhichOneof("event")
        if what == "plan":
            print(f"{len(event.plan.moves)} to move, in about {event.plan.total.ToSeconds()} s")
        elif what == "waits":
            print(f"  {event.waits.instance_name} waits: {event.waits.message}")
        elif what == "ended":
            print(f"  {event.ended.instance_name} {event.ended.WhichOneof('end')} {event.ended.destination}")
        elif what == "totals":
            return event.totals


def explain(error):
    """The stable reason and the sentence of a failed call."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            return info.reason, status.message
    return "COORDINATOR_UNREACHABLE", error.details()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pki", type=Path, required=True, help="directory with ca.pem, cert.pem, key.pem of a coordinator")
    parser.add_argument("--coordinator", required=True, metavar="HOST:PORT")
    parser.add_argument("--instance", help="move this one")
    parser.add_argument("--destination", help="to this host; without: to the best")
    parser.add_argument("--drain", metavar="HOST", help="then move everything away from this one")
    parser.add_argument("--id", default=str(uuid.uuid4()), help="of the migration, to join one that goes on")
    arguments = parser.parse_args()
    fleet = connect(arguments.coordinator, arguments.pki)
    show(fleet)
    if arguments.instance and not moved(fleet, arguments):
        return 1
    if arguments.drain:
        totals = drain(fleet, arguments.drain)
        print(f"{totals.moved} moved, {totals.failed + totals.blocked} stay")
        return 1 if totals.failed or totals.blocked else 0
    return 0


def moved(fleet, arguments):
    wish = fleet_pb2.Wish(instance=arguments.instance, destination=arguments.destination)
    for check in fleet.Plan(fleet_pb2.PlanRequest(wish=wish)).checks:
        if check.WhichOneof("finding") == "refused":
            print(f"  {check.refused.reason}: {check.refused.message}; {check.refused.remedy}", file=sys.stderr)
    ended = move(fleet, wish, arguments.id)
    outcome = migration_pb2.Outcome.Name(ended.outcome).removeprefix("OUTCOME_").lower()
    print(f"{outcome}: {ended.message}")
    return outcome.startswith("completed")


if __name__ == "__main__":
    sys.exit(main())
