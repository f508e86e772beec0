#!/usr/bin/env python3
"""Lists the instances of two hosts and moves one, over mTLS, with nothing but stock grpcio.

    python3 -m venv venv && venv/bin/pip install -r docs/examples/python/requirements.txt
    mkdir gen
    venv/bin/python -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen proto/vmferry/agent/v1/*.proto
    PYTHONPATH=gen venv/bin/python docs/examples/python/migrate.py --pki DIRECTORY \
        --source node-28=192.0.2.10:7443 --destination node-31=192.0.2.11:7443 --instance web

It does what `vmferry migrate` does, without its care for what goes wrong: programs that want that care run `vmferry`.
"""

import argparse
import sys
import uuid
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from vmferry.agent.v1 import (
    host_pb2,
    host_pb2_grpc,
    instance_pb2,
    instance_pb2_grpc,
    migration_pb2,
    migration_pb2_grpc,
)


class Agent:
    """One host's agent."""

    def __init__(self, name, address, pki):
        self.endpoint = migration_pb2.Endpoint(host=name, address=address)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=(pki / "ca.pem").read_bytes(),
            private_key=(pki / "key.pem").read_bytes(),
            certificate_chain=(pki / "cert.pem").read_bytes(),
        )
        # The agent's certificate is for its host's name, whatever address it is reached at.
        options = [("grpc.ssl_target_name_override", name)]
        self.channel = grpc.secure_channel(address, credentials, options)
        self.hosts = host_pb2_grpc.HostServiceStub(self.channel)
        self.instances = instance_pb2_grpc.InstanceServiceStub(self.channel)
        self.migrations = migration_pb2_grpc.MigrationServiceStub(self.channel)


def list_instances(agent):
    host = agent.hosts.GetHost(host_pb2.GetHostRequest()).host
    print(f"{host.name} in zone {host.zone}, {host.memory_available_bytes >> 20} MiB available")
    for instance in agent.instances.ListInstances(instance_pb2.ListInstancesRequest()).instances:
        state = instance_pb2.InstanceState.Name(instance.state).removeprefix("INSTANCE_STATE_")
        print(f"  {instance.name}  {state}  {instance.id}")


def check(source, destination, order):
    """Every refusal of both hosts, what the source says of the guest, and how each of its disks gets there."""
    asked = migration_pb2.CheckRequest(order=order, side=migration_pb2.SIDE_SOURCE)
    try:
        leaving = source.migrations.Check(asked)
        asked = migration_pb2.CheckRequest(order=order, side=migration_pb2.SIDE_DESTINATION, leaving=leaving.leaving)
        arriving = destination.migrations.Check(asked)
    finally:
        source.migrations.EndCheck(migration_pb2.EndCheckRequest(order=order))
    checks = [*leaving.checks, *arriving.checks]
    refusals = [check.refused for check in checks if check.WhichOneof("finding") == "refused"]
    return leaving.leaving, list(arriving.resolved), refusals


def move(source, destination, name):
    instance = source.instances.GetInstance(instance_pb2.GetInstanceRequest(instance=name)).instance
    order = migration_pb2.Order(
        migration_id=str(uuid.uuid4()),
        instance_id=instance.id,
        instance_name=instance.name,
        source=source.endpoint,
        destination=destination.endpoint,
    )
    leaving, resolved, refusals = check(source, destination, order)
    if refusals:
        for refusal in refusals:
            print(f"{refusal.reason}: {refusal.message}; {refusal.remedy}", file=sys.stderr)
        return 3
    try:
        asked = migration_pb2.PreRequest(order=order, side=migration_pb2.SIDE_SOURCE, resolved=resolved)
        source.migrations.Pre(asked)
        asked = migration_pb2.PreRequest(
            order=order, side=migration_pb2.SIDE_DESTINATION, leaving=leaving, resolved=resolved
        )
        ready = destination.migrations.Pre(asked)
        asked = migration_pb2.MigrateRequest(order=order, relocations=ready.relocations)
        for event in source.migrations.Migrate(asked):
            if event.HasField("progress"):
                print(f"  {event.progress.remaining_bytes >> 20} MiB left")
            else:
                downtime = event.completed.downtime.ToTimedelta()
                print(f"  moved, downtime {downtime.total_seconds() * 1000:.0f} ms")
    except grpc.RpcError as error:
        reason, message = explain(error)
        print(f"{reason}: {message}", file=sys.stderr)
        # The error does not say where the guest runs. The hosts do.
        if not (runs_on(source, order) and not runs_on(destination, order)):
            print(f"find out where {instance.name} is: vmferry migrations resolve {order.migration_id}", file=sys.stderr)
            return 6
        cause = migration_pb2.Cause(reason=reason, host=source.endpoint.host, message=message)
        # The source first: once its half has ended it starts no job any more.
        for agent, side in ((source, migration_pb2.SIDE_SOURCE), (destination, migration_pb2.SIDE_DESTINATION)):
            agent.migrations.Cleanup(migration_pb2.CleanupRequest(order=order, side=side, cause=cause))
        return 1
    for agent, side in ((destination, migration_pb2.SIDE_DESTINATION), (source, migration_pb2.SIDE_SOURCE)):
        for warning in agent.migrations.Post(migration_pb2.PostRequest(order=order, side=side)).warnings:
            print(f"warning: {warning}", file=sys.stderr)
    # Each host keeps its half of the record; watching one that has ended yields its last state.
    asked = migration_pb2.WatchMigrationRequest(migration_id=order.migration_id)
    for seen in source.migrations.WatchMigration(asked):
        outcome = migration_pb2.Outcome.Name(seen.migration.outcome).removeprefix("OUTCOME_").lower()
    print(f"{outcome}: {instance.name} runs on {destination.endpoint.host}")
    return 0


def runs_on(agent, order):
    seen = agent.migrations.Locate(migration_pb2.LocateRequest(order=order)).sighting
    return seen == migration_pb2.SIGHTING_RUNNING


def explain(error):
    """The stable reason and the sentence of a failed call."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            return info.reason, status.message
    return "AGENT_UNREACHABLE", error.details()


def services(agent):
    """What the agent says it serves, by gRPC reflection."""
    return sorted(ProtoReflectionDescriptorDatabase(agent.channel).get_services())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pki", type=Path, required=True, help="directory with ca.pem, cert.pem, key.pem of a coordinator")
    parser.add_argument("--source", required=True, metavar="NAME=ADDRESS:PORT")
    parser.add_argument("--destination", required=True, metavar="NAME=ADDRESS:PORT")
    parser.add_argument("--instance", help="move this one from source to destination")
    arguments = parser.parse_args()
    source = Agent(*arguments.source.split("=", 1), arguments.pki)
    destination = Agent(*arguments.destination.split("=", 1), arguments.pki)
    print("services:", ", ".join(services(source)))
    list_instances(source)
    list_instances(destination)
    if arguments.instance:
        sys.exit(move(source, destination, arguments.instance))


if __name__ == "__main__":
    main()
