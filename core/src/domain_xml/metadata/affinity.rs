//! What a domain's definition says of the affinity groups that the guest is in, in an element of our own.
//!
//! ```xml
//! <metadata>
//!   <vmferry:affinity xmlns:vmferry="https://vmferry.org/xmlns/affinity/1">
//!     <vmferry:group name="db" policy="anti-affinity"/>
//!   </vmferry:affinity>
//! </metadata>
//! ```

use roxmltree::Node;

use super::write::{Xml, element};
use crate::{
    affinity::{GroupName, Membership, UnknownAffinityPolicy},
    domain_xml::child,
    id::InvalidId,
};

/// The element's namespace; libvirt's key to it in `virDomainSetMetadata`.
pub const NAMESPACE: &str = "https://vmferry.org/xmlns/affinity/1";

/// Metadata that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AffinityError {
    /// A group without a part of it.
    #[error("a <group> has no {0}; it needs name and policy")]
    Missing(&'static str),
    /// A group that can have no such name.
    #[error("a <group> has a name that cannot be: {0}")]
    Name(#[from] InvalidId),
    /// A group of no known policy.
    #[error("group {group} has a policy that is none: {why}")]
    Policy {
        /// The group.
        group: GroupName,
        /// What is wrong with it.
        why: UnknownAffinityPolicy,
    },
    /// One group twice: it would not be known which counts.
    #[error("group {0} is there twice")]
    Repeated(GroupName),
    /// Something is there that might have been meant for a policy.
    #[error("a <group> has an attribute `{0}`; it knows name and policy")]
    Attribute(String),
    /// An element is there that might have been meant for it.
    #[error("there is an element <{0}> of {NAMESPACE}, which has only <affinity> with <group>s in it")]
    Element(String),
    /// Two of them.
    #[error("there is more than one <affinity>")]
    Twice,
}

/// Reads the memberships of a `<domain>`, by the group's name. None are no error.
pub(in crate::domain_xml) fn read(domain: Node<'_, '_>) -> Result<Vec<Membership>, AffinityError> {
    let ours = child(domain, "metadata").into_iter().flat_map(|metadata| metadata.children());
    // A group that is misspelled must not be taken for none.
    let mut ours = ours.filter(|node| node.is_element() && node.tag_name().namespace() == Some(NAMESPACE));
    let Some(list) = ours.next() else { return Ok(Vec::new()) };
    if list.tag_name().name() != "affinity" {
        return Err(AffinityError::Element(list.tag_name().name().to_owned()));
    }
    if ours.next().is_some() {
        return Err(AffinityError::Twice);
    }
    let said = list.children().filter(Node::is_element).map(membership).collect::<Result<_, _>>()?;
    judged(said)
}

/// The same, by the group's name, if they can all be.
pub fn judged(mut said: Vec<Membership>) -> Result<Vec<Membership>, AffinityError> {
    said.sort();
    let twice = said.windows(2).find(|pair| pair[0].group == pair[1].group);
    twice.map_or(Ok(()), |pair| Err(AffinityError::Repeated(pair[0].group.clone())))?;
    Ok(said)
}

fn membership(node: Node<'_, '_>) -> Result<Membership, AffinityError> {
    // `virsh metadata --set` puts the outermost element alone into a namespace, so none will do.
    let ours = node.tag_name().namespace().is_none_or(|namespace| namespace == NAMESPACE);
    if !ours || node.tag_name().name() != "group" {
        return Err(AffinityError::Element(node.tag_name().name().to_owned()));
    }
    if let Some(unknown) = node.attributes().find(|attribute| !["name", "policy"].contains(&attribute.name())) {
        return Err(AffinityError::Attribute(unknown.name().to_owned()));
    }
    let required = |name| node.attribute(name).ok_or(AffinityError::Missing(name));
    let group: GroupName = required("name")?.parse()?;
    match required("policy")?.parse() {
        Ok(policy) => Ok(Membership { group, policy }),
        Err(why) => Err(AffinityError::Policy { group, why }),
    }
}

/// The element that says all this, to be put into `<metadata>`, where it must be the only one of its namespace.
pub fn write(said: &[Membership]) -> String {
    affinity("vmferry:", vec![("xmlns:vmferry", NAMESPACE)], said)
}

/// The same for `virDomainSetMetadata`, which puts the namespace in by itself.
pub(super) fn write_bare(said: &[Membership]) -> String {
    affinity("", vec![], said)
}

fn affinity(prefix: &'static str, namespace: Vec<(&'static str, &'static str)>, said: &[Membership]) -> String {
    let mut xml = Xml::new(prefix);
    element(&mut xml, "affinity", namespace, |xml| {
        for Membership { group, policy } in said {
            element(xml, "group", vec![("name", group.as_str()), ("policy", policy.as_str())], |_| ());
        }
    });
    xml.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{affinity::AffinityPolicy, domain_xml::parse};

    fn read_back(xml: &str) -> Result<Vec<Membership>, AffinityError> {
        let xml = format!("<domain><metadata><a:b xmlns:a='c'/>{xml}</metadata></domain>");
        read(parse(&xml).expect("well-formed").root_element())
    }

    proptest! {
        #[test]
        fn memberships_read_back_as_they_were_written(
            said in prop::collection::btree_map("[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}", 0_usize..4, 0..5),
        ) {
            let said: Vec<_> = said
                .iter()
                .map(|(group, policy)| Membership {
                    group: group.parse().expect("valid"),
                    policy: AffinityPolicy::ALL[*policy],
                })
                .collect();
            prop_assert_eq!(read_back(&write(&said)), Ok(said.clone()));
            let bare = write_bare(&said).replace("<affinity", &format!("<affinity xmlns='{NAMESPACE}'"));
            prop_assert_eq!(read_back(&bare), Ok(said.clone()), "as libvirt makes it, but for the prefix");
            let virsh = write_bare(&said).replace("<affinity", &format!("<v:affinity xmlns:v='{NAMESPACE}'"));
            let virsh = virsh.replace("</affinity", "</v:affinity");
            prop_assert_eq!(read_back(&virsh), Ok(said), "as virsh makes it");
        }
    }

    #[test]
    fn nothing_said_is_no_group() {
        assert_eq!(read_back(""), Ok(vec![]));
        assert_eq!(read_back("<affinity><group name='?'/></affinity>"), Ok(vec![]), "somebody else's");
    }

    #[test]
    fn what_cannot_be_is_told() {
        let told = |inner: &str| read_error(inner).to_string();
        assert_eq!(told("<v:group policy='affinity'/>"), "a <group> has no name; it needs name and policy");
        assert_eq!(told("<v:group name='db'/>"), "a <group> has no policy; it needs name and policy");
        assert_eq!(
            told("<v:group name='a b' policy='affinity'/>"),
            "a <group> has a name that cannot be: `a b` is not a valid name of an affinity group"
        );
        assert_eq!(
            told("<v:group name='db' policy='apart'/>"),
            "group db has a policy that is none: `apart` is none of affinity, anti-affinity, soft-affinity and \
             soft-anti-affinity"
        );
        let one = "<v:group name='db' policy='affinity'/>";
        assert_eq!(told(&format!("{one}{one}")), "group db is there twice");
        assert_eq!(
            told("<v:group name='db' polcy='affinity'/>"),
            "a <group> has an attribute `polcy`; it knows name and policy"
        );
        for (inner, found) in [("<v:grop/>", "grop"), ("<w:group name='db' policy='affinity'/>", "group")] {
            assert_eq!(read_error(inner), AffinityError::Element(found.to_owned()));
        }
        let empty = write(&[]);
        assert_eq!(read_back(&format!("{empty}{empty}")), Err(AffinityError::Twice));
        let other = format!("<v:affinty xmlns:v='{NAMESPACE}'/>");
        assert_eq!(read_back(&other), Err(AffinityError::Element("affinty".to_owned())));
    }

    fn read_error(inner: &str) -> AffinityError {
        let xml = format!("<v:affinity xmlns:v='{NAMESPACE}' xmlns:w='w'>{inner}</v:affinity>");
        read_back(&xml).expect_err("invalid")
    }
}
