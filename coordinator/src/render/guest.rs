//! What a guest does on the host that has it, once its migration is over: what was seen, and not what should be.

use vmferry_core::{agent::Sighting, id::HostName, migration::Order};

/// A guest as it was seen at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    order: &'a Order,
    /// Where it is.
    host: &'a HostName,
    /// `None`: its host could not be asked.
    guest: Option<Sighting>,
}

impl<'a> Seen<'a> {
    /// One that has moved.
    pub(crate) fn on_destination(order: &'a Order, guest: Option<Sighting>) -> Self {
        Self { order, host: &order.destination.host, guest }
    }

    /// One that has not.
    pub(crate) fn on_source(order: &'a Order, guest: Option<Sighting>) -> Self {
        Self { order, host: &order.source.host, guest }
    }

    /// Where it is, running or off.
    pub(crate) fn host(self) -> &'a str {
        self.host.as_str()
    }

    /// Whether it runs there.
    pub(crate) fn runs(self) -> bool {
        self.guest == Some(Sighting::Running)
    }

    /// Whether it does there what it did before: one that was off is off.
    pub(crate) fn is_as_before(self) -> bool {
        self.guest.is_some_and(|guest| self.order.is_at_rest(guest))
    }

    /// Before the name of its host.
    pub(crate) fn verb(self) -> &'static str {
        match self.guest {
            Some(Sighting::Running) => "runs on",
            Some(Sighting::Shutoff) if self.order.kind.stays_off() => "is, shut off, on",
            Some(Sighting::Shutoff) => "is shut off on",
            Some(Sighting::Paused) => "is paused on",
            Some(Sighting::Absent) => "is not any more on",
            Some(Sighting::Arriving | Sighting::Departing | Sighting::Incomplete) | None => "is on",
        }
    }

    /// Where it is, and what to do if it is not as it was.
    pub(crate) fn sentence(self) -> String {
        format!("{} {}", self.order.instance_name, self.clause())
    }

    /// The same without its name.
    pub(crate) fn clause(self) -> String {
        let place = format!("{} {}", self.verb(), self.host);
        match self.remedy() {
            Some(remedy) => format!("{place}: {remedy}"),
            None if self.guest.is_none() => format!("{place}, which could not be asked whether it runs there"),
            None => place,
        }
    }

    /// What to do if it is not as it was; `None`: nothing, or nothing that could be said.
    fn remedy(self) -> Option<String> {
        let name = &self.order.instance_name;
        match self.guest? {
            _ if self.is_as_before() => None,
            Sighting::Shutoff => Some(format!("start it there (virsh start {name})")),
            Sighting::Paused => {
                Some(format!("see why (virsh domstate --reason {name}), let it run there (virsh resume {name})"))
            }
            Sighting::Absent => Some(format!("see which host has it (vmferry instances show {name})")),
            Sighting::Running | Sighting::Arriving | Sighting::Departing | Sighting::Incomplete => None,
        }
    }

    /// The same of one that ended some time ago, behind the name of its host; nothing if it was as before, or nobody has seen it.
    pub(crate) fn then(self) -> String {
        let name = &self.order.instance_name;
        match self.guest {
            _ if self.is_as_before() => String::new(),
            Some(Sighting::Shutoff) => format!(", where it was shut off at the end: virsh start {name}"),
            Some(Sighting::Paused) => format!(", where it was paused at the end: virsh resume {name}"),
            Some(Sighting::Absent) => ", which did not have it any more at the end".into(),
            Some(_) | None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use vmferry_core::migration::{Kind, Side};

    use super::*;
    use crate::history::tests::half;

    #[test]
    fn a_guest_is_told_as_it_was_seen() {
        let live = half(Side::Source, "0190f5fe-7c00-7a00-8abc-012345678901", 0, None).order;
        let off = Order { kind: Kind::Cold { shutdown: None }, ..live.clone() };
        let guests = [
            Some(Sighting::Running),
            Some(Sighting::Shutoff),
            Some(Sighting::Paused),
            Some(Sighting::Absent),
            Some(Sighting::Incomplete),
            None,
        ];
        let told = |order: &Order| {
            let lines = guests.map(|guest| {
                let seen = Seen::on_source(order, guest);
                format!("{} {}{}", seen.runs(), seen.sentence(), seen.then())
            });
            lines.join("\n")
        };
        insta::assert_snapshot!(told(&live), @"
        true web runs on node-28
        false web is shut off on node-28: start it there (virsh start web), where it was shut off at the end: virsh start web
        false web is paused on node-28: see why (virsh domstate --reason web), let it run there (virsh resume web), where it was paused at the end: virsh resume web
        false web is not any more on node-28: see which host has it (vmferry instances show web), which did not have it any more at the end
        false web is on node-28
        false web is on node-28, which could not be asked whether it runs there
        ");
        let told = told(&off);
        let (first, second) = (told.lines().next(), told.lines().nth(1));
        assert_eq!((first, second), (Some("true web runs on node-28"), Some("false web is, shut off, on node-28")));
    }
}
