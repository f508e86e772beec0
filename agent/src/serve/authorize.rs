//! Who may call what: one table.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::{Either, Ready, ready};
use tonic::{
    body::Body,
    codegen::{Service, http},
};
use tower::layer::{LayerFn, layer_fn};
use vmferry_core::{
    agent::CallError,
    id::HostName,
    identity::{Identity, Role},
    reason::Reason,
};
use vmferry_proto::status::from_call_error;

const EVERYBODY: &[Role] = &[Role::Coordinator, Role::Agent, Role::Viewer];
const READERS: &[Role] = &[Role::Coordinator, Role::Viewer];
const COORDINATORS: &[Role] = &[Role::Coordinator];

/// What is not here is refused.
const TABLE: &[(&str, &[Role])] = &[
    ("/grpc.health.v1.Health/Check", EVERYBODY),
    ("/grpc.health.v1.Health/Watch", EVERYBODY),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", EVERYBODY),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", EVERYBODY),
    ("/vmferry.agent.v1.GroupService/GetGroups", READERS),
    ("/vmferry.agent.v1.GroupService/TellGroups", COORDINATORS),
    ("/vmferry.agent.v1.HostService/GetHost", READERS),
    ("/vmferry.agent.v1.HostService/Examine", READERS),
    ("/vmferry.agent.v1.HostService/ListPolicies", READERS),
    ("/vmferry.agent.v1.HostService/Cordon", COORDINATORS),
    ("/vmferry.agent.v1.HostService/Uncordon", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/ListInstances", READERS),
    ("/vmferry.agent.v1.InstanceService/GetInstance", READERS),
    ("/vmferry.agent.v1.InstanceService/SetVolumeLabel", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/UnsetVolumeLabel", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/SetVifLabel", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/SetGuestLimits", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/SetAffinity", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/ListMigrations", READERS),
    ("/vmferry.agent.v1.MigrationService/ListWaiting", EVERYBODY),
    ("/vmferry.agent.v1.MigrationService/GetMigration", READERS),
    ("/vmferry.agent.v1.MigrationService/WatchMigration", READERS),
    ("/vmferry.agent.v1.MigrationService/Locate", READERS),
    ("/vmferry.agent.v1.MigrationService/Check", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/EndCheck", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Measure", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Admit", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Withdraw", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Pre", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Migrate", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Start", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Post", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Cleanup", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Abort", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Steer", COORDINATORS),
];

fn is_allowed(role: Role, path: &str) -> bool {
    TABLE.iter().any(|(call, roles)| *call == path && roles.contains(&role))
}

/// Lets through what the table allows.
pub(super) fn layer<S>() -> LayerFn<fn(S) -> Authorize<S>> {
    layer_fn(|inner| Authorize { inner })
}

/// A service that is asked only what its caller may ask.
#[derive(Debug, Clone)]
pub(super) struct Authorize<S> {
    inner: S,
}

impl<S> Service<http::Request<Body>> for Authorize<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<S::Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match judge(request.extensions().get::<Identity>(), request.uri().path()) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(refusal) => Either::Right(ready(Ok(from_call_error(&refusal).into_http()))),
        }
    }
}

fn judge(caller: Option<&Identity>, path: &str) -> Result<(), CallError> {
    if caller.is_some_and(|caller| is_allowed(caller.role, path)) {
        return Ok(());
    }
    let caller = caller.map_or_else(|| "a caller without identity".to_owned(), Identity::to_string);
    tracing::warn!(caller, path, "refused");
    let call = path.rsplit('/').next().unwrap_or(path);
    Err(CallError {
        // The client knows whom it called; here the name is not at hand.
        host: "agent".parse::<HostName>().expect("a valid name"),
        reason: Reason::PermissionDenied,
        message: format!("{caller} may not call {call}; use a certificate with a role that may (coordinator)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_every_service_has_its_row() {
        let descriptors = <prost_types::FileDescriptorSet as prost::Message>::decode(vmferry_proto::DESCRIPTORS)
            .expect("our own descriptors");
        for file in &descriptors.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert!(TABLE.iter().any(|(call, _)| *call == path), "{path} has no row");
                }
            }
        }
    }

    #[test]
    fn only_coordinators_change_anything() {
        let changing = [
            "Check", "EndCheck", "Measure", "Admit", "Withdraw", "Pre", "Migrate", "Start", "Post", "Cleanup", "Abort",
            "Steer",
        ];
        for call in changing {
            let path = format!("/vmferry.agent.v1.MigrationService/{call}");
            assert!(is_allowed(Role::Coordinator, &path));
            assert!(!is_allowed(Role::Viewer, &path) && !is_allowed(Role::Agent, &path), "{call}");
        }
        for call in ["SetVolumeLabel", "UnsetVolumeLabel", "SetVifLabel", "SetGuestLimits", "SetAffinity"] {
            let path = format!("/vmferry.agent.v1.InstanceService/{call}");
            assert!(is_allowed(Role::Coordinator, &path) && !is_allowed(Role::Viewer, &path), "{call}");
        }
        for call in ["Cordon", "Uncordon"] {
            let path = format!("/vmferry.agent.v1.HostService/{call}");
            assert!(is_allowed(Role::Coordinator, &path));
            assert!(!is_allowed(Role::Viewer, &path) && !is_allowed(Role::Agent, &path), "{call}");
        }
        let tell = "/vmferry.agent.v1.GroupService/TellGroups";
        assert!(
            is_allowed(Role::Coordinator, tell) && !is_allowed(Role::Viewer, tell) && !is_allowed(Role::Agent, tell)
        );
        assert!(is_allowed(Role::Viewer, "/vmferry.agent.v1.GroupService/GetGroups"));
        for call in ["GetHost", "Examine", "ListPolicies"] {
            assert!(is_allowed(Role::Viewer, &format!("/vmferry.agent.v1.HostService/{call}")), "{call}");
        }
        assert!(!is_allowed(Role::Coordinator, "/vmferry.agent.v1.MigrationService/Unheard"));
    }
}
