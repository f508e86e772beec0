//! What it says of its instances.

use super::*;

#[async_trait]
impl v1::instance_service_server::InstanceService for Agent {
    async fn list_instances(
        &self,
        _: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        let crowd = if self.name == "node-31" { self.world().crowd } else { 0 };
        let one = |number| Instance {
            id: InstanceId(uuid::Uuid::from_u128(number)),
            name: format!("crowd-{number}"),
            ..self.instance()
        };
        let instances = self.has_guest().then(|| self.instance()).into_iter().chain((1..=crowd).map(one));
        let is_copy = self.name == "node-31" && self.world().is_defined_twice;
        let copy = is_copy.then(|| Instance { state: InstanceState::Shutoff, ..self.instance() });
        let instances = instances.chain(copy).map(Into::into).collect();
        Ok(Response::new(v1::ListInstancesResponse { instances }))
    }

    async fn get_instance(
        &self,
        _: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        Err(Status::unimplemented("not needed"))
    }

    async fn set_volume_label(
        &self,
        request: Request<v1::SetVolumeLabelRequest>,
    ) -> Result<Response<v1::SetVolumeLabelResponse>, Status> {
        let label: VolumeLabel =
            vmferry_proto::convert::required(request.into_inner().label, "label").expect("a coordinator of ours asks");
        self.world().label = Some(label);
        Ok(Response::new(v1::SetVolumeLabelResponse { instance: Some(self.instance().into()) }))
    }

    async fn set_vif_label(
        &self,
        request: Request<v1::SetVifLabelRequest>,
    ) -> Result<Response<v1::SetVifLabelResponse>, Status> {
        use v1::set_vif_label_request::What;
        let label = match request.into_inner().what.expect("a coordinator of ours asks") {
            What::Label(label) => Some(InterfaceLabel::try_from(label).expect("valid")),
            What::UnsetAll(_) => None,
        };
        self.world().vif = label.filter(|label| label.network.is_some() || label.policy.is_some());
        Ok(Response::new(v1::SetVifLabelResponse { instance: Some(self.instance().into()) }))
    }

    async fn set_guest_limits(
        &self,
        request: Request<v1::SetGuestLimitsRequest>,
    ) -> Result<Response<v1::SetGuestLimitsResponse>, Status> {
        let limits = vmferry_proto::convert::required(request.into_inner().limits, "limits");
        self.world().limits = limits.expect("a coordinator of ours asks");
        Ok(Response::new(v1::SetGuestLimitsResponse { instance: Some(self.instance().into()) }))
    }

    async fn set_affinity(
        &self,
        request: Request<v1::SetAffinityRequest>,
    ) -> Result<Response<v1::SetAffinityResponse>, Status> {
        use v1::set_affinity_request::What;
        let what = request.into_inner().what.expect("a coordinator of ours asks");
        let left = |other: &Membership| match &what {
            What::Join(joined) => other.group.as_str() == joined.group,
            What::Leave(group) => other.group.as_str() == group,
            What::LeaveAll(_) => true,
        };
        self.world().affinity.retain(|other| !left(other));
        if let What::Join(joined) = what {
            self.world().affinity.push(joined.try_into().expect("valid"));
        }
        Ok(Response::new(v1::SetAffinityResponse { instance: Some(self.instance().into()) }))
    }

    async fn unset_volume_label(
        &self,
        request: Request<v1::UnsetVolumeLabelRequest>,
    ) -> Result<Response<v1::UnsetVolumeLabelResponse>, Status> {
        use v1::unset_volume_label_request::Which;
        let which = request.into_inner().which;
        let meant = |label: &VolumeLabel| match &which {
            Some(Which::Target(target)) => *target == label.target,
            Some(Which::All(all)) => *all,
            None => false,
        };
        if self.world().label.take_if(|label| meant(label)).is_none() {
            return Err(self.error(Reason::InvalidRequest, "nothing is said of that volume"));
        }
        Ok(Response::new(v1::UnsetVolumeLabelResponse { instance: Some(self.instance().into()) }))
    }
}
