//! Who may call what: one table, for agents and for coordinators that serve.
//!
//! A coordinator that calls an agent for somebody else says so in the request's metadata ([`ON_BEHALF_OF`]). That never widens
//! rights: the call must be allowed to both.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::{Either, Ready, ready};
use tonic::{
    body::Body,
    codegen::{Service, http},
};
use vmferry_core::{
    agent::CallError,
    id::HostName,
    identity::{Asker, Identity, Role},
    reason::Reason,
};

use crate::status::from_call_error;

/// In a request's metadata: the identity for which a coordinator calls.
pub const ON_BEHALF_OF: &str = "vmferry-on-behalf-of";

/// In the metadata of a request to a coordinator: the host whose agent is meant.
pub const HOST: &str = "vmferry-host";

/// In the metadata of a call to an agent: the epoch under which the caller drives the migration, a decimal number.
pub const EPOCH: &str = "vmferry-epoch";

const EVERYBODY: &[Role] = &[Role::Coordinator, Role::Agent, Role::Viewer];
const READERS: &[Role] = &[Role::Coordinator, Role::Viewer];
const COORDINATORS: &[Role] = &[Role::Coordinator];
/// Agents call each other about migrations that name them both, which each looks after itself.
const DRIVERS: &[Role] = &[Role::Coordinator, Role::Agent];

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
    ("/vmferry.agent.v1.HostService/RemoveLeftovers", COORDINATORS),
    ("/vmferry.agent.v1.HostService/Cordon", COORDINATORS),
    ("/vmferry.agent.v1.HostService/Uncordon", COORDINATORS),
    ("/vmferry.agent.v1.HostService/ListPolicies", READERS),
    ("/vmferry.agent.v1.InstanceService/ListInstances", READERS),
    ("/vmferry.agent.v1.InstanceService/GetInstance", READERS),
    ("/vmferry.agent.v1.InstanceService/SetVolumeLabel", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/UnsetVolumeLabel", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/SetVifLabel", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/SetGuestLimits", COORDINATORS),
    ("/vmferry.agent.v1.InstanceService/SetAffinity", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/ListMigrations", READERS),
    ("/vmferry.agent.v1.MigrationService/GetMigration", EVERYBODY),
    ("/vmferry.agent.v1.MigrationService/WatchMigration", READERS),
    ("/vmferry.agent.v1.MigrationService/Locate", EVERYBODY),
    ("/vmferry.agent.v1.MigrationService/GetFacts", DRIVERS),
    ("/vmferry.agent.v1.MigrationService/ListWaiting", EVERYBODY),
    ("/vmferry.agent.v1.MigrationService/Admit", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Withdraw", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Check", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/EndCheck", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Measure", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Pre", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Migrate", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Start", DRIVERS),
    ("/vmferry.agent.v1.MigrationService/Post", DRIVERS),
    ("/vmferry.agent.v1.MigrationService/Cleanup", DRIVERS),
    ("/vmferry.agent.v1.MigrationService/Renew", DRIVERS),
    ("/vmferry.agent.v1.MigrationService/TakeLease", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Abort", COORDINATORS),
    ("/vmferry.agent.v1.MigrationService/Steer", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/ListInventory", READERS),
    ("/vmferry.coordinator.v1.FleetService/ListHosts", READERS),
    ("/vmferry.coordinator.v1.FleetService/ListInstances", READERS),
    ("/vmferry.coordinator.v1.FleetService/GetInstance", READERS),
    ("/vmferry.coordinator.v1.FleetService/ListMigrations", READERS),
    ("/vmferry.coordinator.v1.FleetService/GetMigration", READERS),
    ("/vmferry.coordinator.v1.FleetService/Check", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/Plan", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/Migrate", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/WatchMigration", READERS),
    ("/vmferry.coordinator.v1.FleetService/AbortMigration", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/SteerMigration", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/Drain", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/Undrain", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/Cordon", COORDINATORS),
    ("/vmferry.coordinator.v1.FleetService/Uncordon", COORDINATORS),
];

fn is_allowed(role: Role, path: &str) -> bool {
    TABLE.iter().any(|(call, roles)| *call == path && roles.contains(&role))
}

/// Lets through what the table allows, of calls to a server that is called so in errors. Requests that it lets through have an
/// [`Asker`] in their extensions.
#[derive(Debug, Clone)]
pub struct Layer {
    name: HostName,
}

impl Layer {
    /// The server's name.
    pub fn new(name: HostName) -> Self {
        Self { name }
    }
}

impl<S> tower::Layer<S> for Layer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { inner, name: self.name.clone() }
    }
}

/// A service that is asked only what its caller may ask.
#[derive(Debug, Clone)]
pub struct Authorize<S> {
    inner: S,
    name: HostName,
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

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let judged = asker(&request).and_then(|asker| judge(asker, request.uri().path()));
        match judged {
            Ok(asker) => {
                request.extensions_mut().insert(asker);
                Either::Left(self.inner.call(request))
            }
            Err((reason, message)) => {
                tracing::warn!(path = request.uri().path(), "refused: {message}");
                let refusal = CallError { host: self.name.clone(), reason, message };
                Either::Right(ready(Ok(from_call_error(&refusal).into_http())))
            }
        }
    }
}

type Refusal = (Reason, String);

/// Whose wish the request is.
fn asker(request: &http::Request<Body>) -> Result<Asker, Refusal> {
    let caller = request.extensions().get::<Identity>();
    let caller =
        caller.ok_or_else(|| (Reason::PermissionDenied, "a caller without identity may call nothing".into()))?;
    let mut named = request.headers().get_all(ON_BEHALF_OF).iter();
    let (identity, via) = match (named.next(), named.next()) {
        (None, _) => return Ok(Asker { identity: caller.clone(), via: None }),
        (Some(named), None) => (named, caller),
        (Some(_), Some(_)) => return Err((Reason::InvalidRequest, format!("{caller} calls for several at once"))),
    };
    if via.role != Role::Coordinator {
        return Err((Reason::PermissionDenied, format!("{via} may not call for others; only coordinators may")));
    }
    let identity = identity.to_str().ok().and_then(|text| text.parse::<Identity>().ok());
    match identity.filter(|identity| identity.cluster == via.cluster) {
        Some(identity) => Ok(Asker { identity, via: Some(via.clone()) }),
        None => Err((Reason::InvalidRequest, format!("{via} calls for somebody who is not of its cluster"))),
    }
}

/// Refuses what either may not.
fn judge(asker: Asker, path: &str) -> Result<Asker, Refusal> {
    let may = |identity: &Identity| is_allowed(identity.role, path);
    if may(&asker.identity) && asker.via.as_ref().is_none_or(may) {
        return Ok(asker);
    }
    let call = path.rsplit('/').next().unwrap_or(path);
    let message = format!("{asker} may not call {call}; use a certificate with a role that may (coordinator)");
    Err((Reason::PermissionDenied, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_every_service_has_its_row() {
        let descriptors = <prost_types::FileDescriptorSet as prost::Message>::decode(crate::DESCRIPTORS)
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
        let changing =
            ["Check", "EndCheck", "Measure", "Admit", "Withdraw", "Pre", "Migrate", "TakeLease", "Abort", "Steer"];
        for call in changing {
            let path = format!("/vmferry.agent.v1.MigrationService/{call}");
            assert!(is_allowed(Role::Coordinator, &path));
            assert!(!is_allowed(Role::Viewer, &path) && !is_allowed(Role::Agent, &path), "{call}");
        }
        // What an agent needs to drive a migration to its end, which it may of one that names it.
        for call in ["GetFacts", "Start", "Post", "Cleanup", "Renew"] {
            let path = format!("/vmferry.agent.v1.MigrationService/{call}");
            assert!(is_allowed(Role::Coordinator, &path) && is_allowed(Role::Agent, &path), "{call}");
            assert!(!is_allowed(Role::Viewer, &path), "{call}");
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
        let changing = ["Check", "Plan", "Migrate", "Drain", "Undrain", "Cordon", "Uncordon"].map(|call| (call, false));
        for (call, viewers) in [("ListHosts", true), ("WatchMigration", true)].into_iter().chain(changing) {
            let path = format!("/vmferry.coordinator.v1.FleetService/{call}");
            assert!(is_allowed(Role::Coordinator, &path) && !is_allowed(Role::Agent, &path), "{call}");
            assert_eq!(is_allowed(Role::Viewer, &path), viewers, "{call}");
        }
    }

    fn identity(text: &str) -> Identity {
        text.parse().expect("valid")
    }

    fn judged(caller: &str, for_whom: &[&str], path: &str) -> Result<String, Reason> {
        let mut request = http::Request::builder().uri(path);
        for whom in for_whom {
            request = request.header(ON_BEHALF_OF, *whom);
        }
        let request = request.extension(identity(caller)).body(Body::empty()).expect("a request");
        let judged = asker(&request).and_then(|asker| judge(asker, path));
        judged.map(|asker| asker.to_string()).map_err(|(reason, _)| reason)
    }

    #[test]
    fn who_calls_for_another_may_do_no_more_than_the_other_and_says_so() {
        let (fleet, ops, wall) =
            ("vmferry://c/coordinator/fleet", "vmferry://c/coordinator/ops", "vmferry://c/viewer/wall");
        let (look, abort) = ("/vmferry.agent.v1.HostService/GetHost", "/vmferry.agent.v1.MigrationService/Abort");
        assert_eq!(judged(ops, &[], abort), Ok(ops.to_owned()));
        assert_eq!(judged(fleet, &[ops], abort), Ok(format!("{ops} via {fleet}")));
        assert_eq!(judged(fleet, &[wall], look), Ok(format!("{wall} via {fleet}")));
        for (caller, for_whom, path, reason) in [
            (fleet, &[wall][..], abort, Reason::PermissionDenied),
            // Nobody but a coordinator calls for others, not even for less than it may itself.
            (wall, &[ops], abort, Reason::PermissionDenied),
            (wall, &[ops], look, Reason::PermissionDenied),
            ("vmferry://c/agent/node-28", &[ops], abort, Reason::PermissionDenied),
            (fleet, &["vmferry://other/coordinator/ops"], abort, Reason::InvalidRequest),
            (fleet, &["ops"], abort, Reason::InvalidRequest),
            (fleet, &[ops, wall], look, Reason::InvalidRequest),
        ] {
            assert_eq!(judged(caller, for_whom, path), Err(reason), "{caller} for {for_whom:?}: {path}");
        }
    }
}
