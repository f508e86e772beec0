use std::sync::Arc;

use tonic::{Request, Response, Status};
use vmferry_core::{
    domain_xml::metadata::AffinityChange,
    id::InstanceId,
    instance::{Instance, InstanceState},
    migration::{Phase, Side},
    reason::Reason,
};
use vmferry_proto::{
    convert::{Invalid, required},
    status::from_call_error,
    v1::{
        GetInstanceRequest, GetInstanceResponse, ListInstancesRequest, ListInstancesResponse, SetAffinityRequest,
        SetAffinityResponse, SetGuestLimitsRequest, SetGuestLimitsResponse, SetVifLabelRequest, SetVifLabelResponse,
        SetVolumeLabelRequest, SetVolumeLabelResponse, UnsetVolumeLabelRequest, UnsetVolumeLabelResponse,
        instance_service_server::InstanceService, set_affinity_request, set_vif_label_request::What,
        unset_volume_label_request::Which,
    },
};

use crate::{
    hypervisor::{Fault, Served},
    migrations::Migrations,
};

pub(super) struct Service<H> {
    migrations: Arc<Migrations<H>>,
}

impl<H: Served> Service<H> {
    pub(super) fn new(migrations: Arc<Migrations<H>>) -> Self {
        Self { migrations }
    }

    /// Adds what only the journal knows: the migration, that a guest which leaves is MIGRATING, and its name, of which a cold
    /// migration deprives it meanwhile.
    fn with_migration(&self, mut instance: Instance) -> Instance {
        instance.migration = self.migrations.active_of(instance.id);
        let half = instance.migration.and_then(|id| self.migrations.get(id).ok());
        let Some(half) = half.map(|migration| migration.state()) else { return instance };
        instance.name.clone_from(&half.order().instance_name);
        let is_moving = match (half.side(), instance.state) {
            (Side::Source, InstanceState::Active) => true,
            // The destination's turn begins when all of it is there.
            (Side::Source, InstanceState::Shutoff) => half.order().kind.is_cold() && half.statistics().is_none(),
            (Side::Destination, InstanceState::Shutoff) => half.has_begun(Phase::Migrate),
            _ => false,
        };
        if is_moving && half.outcome().is_none() {
            instance.state = InstanceState::Migrating;
        }
        instance
    }

    async fn find(&self, wanted: &str) -> Result<Instance, Status> {
        let host = self.migrations.host();
        let found = host.instance(wanted).await.map_err(|fault| self.status(fault))?.ok_or_else(|| {
            let message = format!("{} has no instance `{wanted}`; `vmferry instances` lists them", host.name());
            self.status(Fault::new(Reason::InstanceNotFound, message))
        })?;
        Ok(self.with_migration(found))
    }

    /// The instance, if no migration moves it: the destination has been told by now what its definition says.
    fn at_rest(&self, id: &str) -> Result<InstanceId, Status> {
        let id = id.parse().map_err(|_| self.invalid(&Invalid { field: "instance_id" }))?;
        match self.migrations.active_of(id) {
            None => Ok(id),
            Some(migration) => {
                let message =
                    format!("instance {id} is being moved by migration {migration}; say it when that has ended");
                Err(self.status(Fault::new(Reason::InstanceMigrating, message)))
            }
        }
    }

    fn invalid(&self, error: &Invalid) -> Status {
        self.status(Fault::new(Reason::InvalidRequest, error.to_string()))
    }

    fn status(&self, fault: Fault) -> Status {
        from_call_error(&self.migrations.call_error(fault))
    }
}

#[tonic::async_trait]
impl<H: Served> InstanceService for Service<H> {
    async fn list_instances(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let mut instances = self.migrations.host().instances().await.map_err(|fault| self.status(fault))?;
        instances.sort_by(|one, other| one.name.cmp(&other.name));
        let instances = instances.into_iter().map(|instance| self.with_migration(instance).into()).collect();
        Ok(Response::new(ListInstancesResponse { instances }))
    }

    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<GetInstanceResponse>, Status> {
        let found = self.find(&request.into_inner().instance).await?;
        Ok(Response::new(GetInstanceResponse { instance: Some(found.into()) }))
    }

    async fn set_volume_label(
        &self,
        request: Request<SetVolumeLabelRequest>,
    ) -> Result<Response<SetVolumeLabelResponse>, Status> {
        let request = request.into_inner();
        let label = required(request.label, "label").map_err(|error| self.invalid(&error))?;
        let id = self.at_rest(&request.instance_id)?;
        self.migrations.host().set_label(id, label).await.map_err(|fault| self.status(fault))?;
        Ok(Response::new(SetVolumeLabelResponse { instance: Some(self.find(&request.instance_id).await?.into()) }))
    }

    async fn unset_volume_label(
        &self,
        request: Request<UnsetVolumeLabelRequest>,
    ) -> Result<Response<UnsetVolumeLabelResponse>, Status> {
        let request = request.into_inner();
        let target = match request.which {
            Some(Which::Target(target)) => Some(target),
            Some(Which::All(true)) => None,
            Some(Which::All(false)) | None => return Err(self.invalid(&Invalid { field: "which" })),
        };
        let id = self.at_rest(&request.instance_id)?;
        self.migrations.host().unset_label(id, target).await.map_err(|fault| self.status(fault))?;
        Ok(Response::new(UnsetVolumeLabelResponse { instance: Some(self.find(&request.instance_id).await?.into()) }))
    }

    async fn set_vif_label(
        &self,
        request: Request<SetVifLabelRequest>,
    ) -> Result<Response<SetVifLabelResponse>, Status> {
        let request = request.into_inner();
        let label = match request.what {
            Some(What::Label(label)) => Some(required(Some(label), "label").map_err(|error| self.invalid(&error))?),
            Some(What::UnsetAll(true)) => None,
            Some(What::UnsetAll(false)) | None => return Err(self.invalid(&Invalid { field: "what" })),
        };
        let id = self.at_rest(&request.instance_id)?;
        self.migrations.host().set_vif_label(id, label).await.map_err(|fault| self.status(fault))?;
        Ok(Response::new(SetVifLabelResponse { instance: Some(self.find(&request.instance_id).await?.into()) }))
    }

    async fn set_guest_limits(
        &self,
        request: Request<SetGuestLimitsRequest>,
    ) -> Result<Response<SetGuestLimitsResponse>, Status> {
        let request = request.into_inner();
        let limits =
            required(Some(request.limits.unwrap_or_default()), "limits").map_err(|error| self.invalid(&error))?;
        let id = self.at_rest(&request.instance_id)?;
        self.migrations.host().set_limits(id, limits).await.map_err(|fault| self.status(fault))?;
        Ok(Response::new(SetGuestLimitsResponse { instance: Some(self.find(&request.instance_id).await?.into()) }))
    }

    async fn set_affinity(
        &self,
        request: Request<SetAffinityRequest>,
    ) -> Result<Response<SetAffinityResponse>, Status> {
        use set_affinity_request::What;
        let request = request.into_inner();
        let invalid = || self.invalid(&Invalid { field: "what" });
        let change = match request.what {
            Some(What::Join(said)) => {
                AffinityChange::Join(required(Some(said), "join").map_err(|error| self.invalid(&error))?)
            }
            Some(What::Leave(group)) => {
                AffinityChange::Leave(group.parse().map_err(|_| self.invalid(&Invalid { field: "leave" }))?)
            }
            Some(What::LeaveAll(true)) => AffinityChange::LeaveAll,
            Some(What::LeaveAll(false)) | None => return Err(invalid()),
        };
        let id = self.at_rest(&request.instance_id)?;
        self.migrations.host().set_affinity(id, change).await.map_err(|fault| self.status(fault))?;
        Ok(Response::new(SetAffinityResponse { instance: Some(self.find(&request.instance_id).await?.into()) }))
    }
}
