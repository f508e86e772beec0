//! What a host has, and what is said of its guests' volumes, vifs and groups: calls that are no phase.

use std::time::Duration;

use tonic::{Code, Response};
use vmferry_core::{
    agent::CallError,
    convergence::GuestLimits,
    domain_xml::metadata::{AffinityChange, VolumeLabel, interfaces::InterfaceLabel},
    host::{Cordon, Host, HostPolicy, Uncordoned},
    id::{InstanceId, MigrationId},
    instance::Instance,
    leftovers::{Leftover, LeftoverName, Removal},
    migration::Record,
    policy::{GroupReport, Told},
};
use vmferry_proto::{
    convert::{Invalid, removal},
    v1::{
        self, group_service_client::GroupServiceClient, host_service_client::HostServiceClient,
        instance_service_client::InstanceServiceClient, set_affinity_request, set_vif_label_request::What,
        unset_volume_label_request::Which,
    },
};

use super::{LOOK, MESSAGE_LIMIT, RemoteAgent, error};

/// A look at everything that a host holds: devices that hang are waited for, each for a while.
const EXAMINE: Duration = Duration::from_secs(30);

/// The same, and the removal of what was found: sessions are logged out of, devices are waited for until they are gone.
const REMOVE: Duration = Duration::from_secs(180);

/// What is answered when the host filters accordingly: `nft` is run a dozen times.
const FILTERING: Duration = Duration::from_secs(60);

impl RemoteAgent {
    /// This host's half of a migration, with the story of its job, which lists leave out.
    pub async fn whole_record(&self, id: MigrationId) -> Result<Record, CallError> {
        let mut client = self.phases();
        let request = v1::GetMigrationRequest { migration_id: id.to_string() };
        let answer = self.within(LOOK, client.get_migration(request)).await?;
        self.read(answer.migration)
    }

    /// Facts of the host.
    pub async fn facts(&self) -> Result<Host, CallError> {
        let mut client = HostServiceClient::new(self.channel());
        let answer = self.within(LOOK, client.get_host(v1::GetHostRequest {})).await?;
        self.read(answer.host)
    }

    /// Has the host take no guests from now on, for this reason.
    pub async fn cordon(&self, reason: &str) -> Result<Cordon, CallError> {
        let mut client = HostServiceClient::new(self.channel());
        let request = v1::CordonRequest { reason: reason.to_owned() };
        let answer = self.within(LOOK, client.cordon(request)).await?;
        self.read(answer.cordon)
    }

    /// Has the host take guests again. What kept them out, now or the last time.
    pub async fn uncordon(&self) -> Result<Uncordoned, CallError> {
        let mut client = HostServiceClient::new(self.channel());
        let answer = self.within(LOOK, client.uncordon(v1::UncordonRequest {})).await?;
        self.read(Some(answer))
    }

    /// How live migrations from the host may come to their end. An agent of before has none of its own.
    pub async fn policies(&self) -> Result<Vec<HostPolicy>, CallError> {
        let mut client = HostServiceClient::new(self.channel());
        let call = async {
            match client.list_policies(v1::ListPoliciesRequest {}).await {
                Err(status) if status.code() == Code::Unimplemented => {
                    Ok(Response::new(v1::ListPoliciesResponse::default()))
                }
                answer => answer,
            }
        };
        let answer = self.within(LOOK, call).await?;
        answer.policies.into_iter().map(|policy| self.read(Some(policy))).collect()
    }

    /// The host's domains.
    pub async fn instances(&self) -> Result<Vec<Instance>, CallError> {
        let mut client = InstanceServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_LIMIT);
        let answer = self.within(LOOK, client.list_instances(v1::ListInstancesRequest {})).await?;
        answer.instances.into_iter().map(|instance| self.read(Some(instance))).collect()
    }

    /// Says of a disk what it is as a volume. The instance as it is then.
    pub async fn set_volume_label(&self, id: InstanceId, label: VolumeLabel) -> Result<Instance, CallError> {
        let request = v1::SetVolumeLabelRequest { instance_id: id.to_string(), label: Some(label.into()) };
        let mut client = InstanceServiceClient::new(self.channel());
        let answer = self.within(LOOK, client.set_volume_label(request)).await?;
        self.read(answer.instance)
    }

    /// Takes away what is said of a disk; `None`: of all. The instance as it is then.
    pub async fn unset_volume_label(&self, id: InstanceId, target: Option<&str>) -> Result<Instance, CallError> {
        let which = target.map_or(Which::All(true), |target| Which::Target(target.to_owned()));
        let request = v1::UnsetVolumeLabelRequest { instance_id: id.to_string(), which: Some(which) };
        let mut client = InstanceServiceClient::new(self.channel());
        let answer = self.within(LOOK, client.unset_volume_label(request)).await?;
        self.read(answer.instance)
    }

    /// Says of a vif where it is plugged in and what it may; `None`: nothing of any. The instance as it is then.
    pub async fn set_vif_label(&self, id: InstanceId, label: Option<InterfaceLabel>) -> Result<Instance, CallError> {
        let what = label.map_or(What::UnsetAll(true), |label| What::Label(label.into()));
        let request = v1::SetVifLabelRequest { instance_id: id.to_string(), what: Some(what) };
        let mut client = InstanceServiceClient::new(self.channel());
        let answer = self.within(FILTERING, client.set_vif_label(request)).await?;
        self.read(answer.instance)
    }

    /// Says what an instance's live migrations may cost it; with nothing in it: as their policies have it. The instance as it is then.
    pub async fn set_guest_limits(&self, id: InstanceId, limits: GuestLimits) -> Result<Instance, CallError> {
        let request = v1::SetGuestLimitsRequest { instance_id: id.to_string(), limits: Some(limits.into()) };
        let mut client = InstanceServiceClient::new(self.channel());
        let answer = self.within(LOOK, client.set_guest_limits(request)).await?;
        self.read(answer.instance)
    }

    /// Says which affinity groups an instance is in. The instance as it is then.
    pub async fn set_affinity(&self, id: InstanceId, change: AffinityChange) -> Result<Instance, CallError> {
        let what = match change {
            AffinityChange::Join(said) => set_affinity_request::What::Join(said.into()),
            AffinityChange::Leave(group) => set_affinity_request::What::Leave(group.into()),
            AffinityChange::LeaveAll => set_affinity_request::What::LeaveAll(true),
        };
        let request = v1::SetAffinityRequest { instance_id: id.to_string(), what: Some(what) };
        let mut client = InstanceServiceClient::new(self.channel());
        let answer = self.within(LOOK, client.set_affinity(request)).await?;
        self.read(answer.instance)
    }

    /// What migrations have left on the host.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>, CallError> {
        let mut client = HostServiceClient::new(self.channel());
        let answer = self.within(EXAMINE, client.examine(v1::ExamineRequest {})).await?;
        answer.leftovers.into_iter().map(|leftover| self.read(Some(leftover))).collect()
    }

    /// Removes these, and nothing else. What became of each, in their order.
    pub async fn remove_leftovers(&self, names: &[LeftoverName]) -> Result<Vec<Removal>, CallError> {
        let mut client = HostServiceClient::new(self.channel());
        let request =
            v1::RemoveLeftoversRequest { leftovers: names.iter().cloned().map(v1::LeftoverName::from).collect() };
        let answer = self.within(REMOVE, client.remove_leftovers(request)).await?;
        if answer.removals.len() != names.len() {
            return Err(error::nonsense(&self.place, &Invalid { field: "removals" }));
        }
        let read =
            |wire| removal(&self.endpoint().host, wire).map_err(|invalid| error::nonsense(&self.place, &invalid));
        answer.removals.into_iter().map(read).collect()
    }

    /// Which of the host's guests are in security groups, and what it remembers of other hosts'.
    pub async fn groups(&self) -> Result<GroupReport, CallError> {
        let mut client = GroupServiceClient::new(self.channel()).max_decoding_message_size(MESSAGE_LIMIT);
        let answer = self.within(LOOK, client.get_groups(v1::GetGroupsRequest {})).await?;
        let report: GroupReport = self.read(Some(answer))?;
        if report.host == self.place.endpoint.host {
            return Ok(report);
        }
        // Nobody speaks for another's guests.
        Err(error::nonsense(&self.place, &Invalid { field: "own.host" }))
    }

    /// Tells the host which guests of others are in security groups: all that there is to know of exactly these hosts.
    pub async fn tell_groups(&self, hosts: Told) -> Result<(), CallError> {
        let mut client = GroupServiceClient::new(self.channel());
        self.within(FILTERING, client.tell_groups(v1::TellGroupsRequest::from(hosts))).await.map(drop)
    }
}
