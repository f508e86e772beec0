use std::collections::BTreeMap;

use quick_xml::{
    Writer,
    events::{BytesText, Event},
};
use roxmltree::Node;
use uuid::Uuid;

use super::{Error, child, parse, text};

/// A network filter of libvirt's, as libvirt tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterDefinition {
    /// Its name, by which vifs and other filters know it.
    pub name: String,
    /// Its UUID, which is its host's own business. None: it is not said.
    pub uuid: Option<Uuid>,
    /// The filters that it names in turn.
    pub names: Vec<String>,
    /// All of it but its UUID.
    xml: String,
}

impl FilterDefinition {
    /// Reads what libvirt says of a filter.
    ///
    /// # Errors
    /// It is not XML, no filter, or has no name.
    pub fn parse(xml: &str) -> Result<Self, Error> {
        let document = parse(xml)?;
        let filter = document.root_element();
        if !filter.has_tag_name("filter") {
            return Err(Error::Missing { parent: "document", wanted: "filter" });
        }
        let name = filter.attribute("name").ok_or(Error::Missing { parent: "filter", wanted: "name" })?.to_owned();
        let (before, after) = match child(filter, "uuid").map(|uuid| uuid.range()) {
            Some(uuid) => (&xml[..uuid.start], &xml[uuid.end..]),
            None => (xml, ""),
        };
        Ok(Self {
            name,
            uuid: text(filter, "uuid").and_then(|uuid| Uuid::parse_str(uuid).ok()),
            names: filter.children().filter_map(filter_named).collect(),
            xml: format!("{before}{after}"),
        })
    }

    /// All of it but its UUID.
    pub fn xml(&self) -> &str {
        &self.xml
    }

    /// All of it, to be defined under this UUID.
    ///
    /// # Errors
    /// None for a filter that was read.
    pub fn xml_with(&self, uuid: Uuid) -> Result<String, Error> {
        let document = parse(&self.xml)?;
        let filter = document.root_element();
        let uuid = format!("<uuid>{uuid}</uuid>");
        let (place, text) = match filter.first_child() {
            Some(first) => (first.range().start..first.range().start, uuid),
            None => (filter.range(), holding(filter, &uuid)),
        };
        Ok([&self.xml[..place.start], &text, &self.xml[place.end..]].concat())
    }

    /// Whether both let the same through: white space, quotes, comments and the order of attributes say nothing, and neither do
    /// UUIDs. The filters that they name are compared by name alone.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (parse(&self.xml), parse(&other.xml)) {
            (Ok(one), Ok(other)) => is_same(one.root_element(), other.root_element()),
            _ => false,
        }
    }
}

/// The filter that a vif, or another filter, names by this child.
pub(super) fn filter_named(node: Node<'_, '_>) -> Option<String> {
    node.has_tag_name("filterref").then(|| node.attribute("filter").map(str::to_owned)).flatten()
}

/// An element that is empty, with this in it.
fn holding(empty: Node<'_, '_>, inner: &str) -> String {
    let mut xml = Writer::new(Vec::new());
    let attributes = empty.attributes().map(|attribute| (attribute.name(), attribute.value()));
    let element = xml.create_element(empty.tag_name().name()).with_attributes(attributes);
    let written = element.write_inner_content(|xml| xml.write_event(Event::Text(BytesText::from_escaped(inner))));
    written.map(drop).expect("writing to memory does not fail");
    String::from_utf8(xml.into_inner()).expect("made of strings")
}

fn is_same(one: Node<'_, '_>, other: Node<'_, '_>) -> bool {
    if one.is_text() || other.is_text() {
        // An element has a text, too: that of its first child.
        return one.is_text() == other.is_text() && one.text().map(str::trim) == other.text().map(str::trim);
    }
    let (ones, others): (Vec<_>, Vec<_>) = (said(one).collect(), said(other).collect());
    one.tag_name() == other.tag_name()
        && attributes(one) == attributes(other)
        && ones.len() == others.len()
        && ones.into_iter().zip(others).all(|(one, other)| is_same(one, other))
}

/// What is in an element and says something, in its order: of rules of one priority the first counts.
fn said<'a, 'd: 'a>(node: Node<'a, 'd>) -> impl Iterator<Item = Node<'a, 'd>> {
    let is_said =
        |child: &Node<'_, '_>| child.text().filter(|_| child.is_text()).is_some_and(|text| !text.trim().is_empty());
    node.children().filter(move |child| child.is_element() || is_said(child))
}

fn attributes<'a>(node: Node<'a, '_>) -> BTreeMap<&'a str, &'a str> {
    node.attributes().map(|attribute| (attribute.name(), attribute.value())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTER: &str = "<filter name='web-only' chain='root' priority='-700'>
  <uuid>2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01</uuid>
  <filterref filter='no-mac-spoofing'/>
  <filterref filter='no-ip-spoofing'><parameter name='IP' value='192.0.2.7'/></filterref>
  <rule action='accept' direction='in' priority='100'><tcp dstportstart='80'/></rule>
  <rule action='drop' direction='in' priority='500'/>
</filter>
";

    fn read(xml: &str) -> FilterDefinition {
        FilterDefinition::parse(xml).expect("valid")
    }

    #[test]
    fn a_filter_is_read_with_those_that_it_names_and_without_its_uuid() {
        let filter = read(FILTER);
        assert_eq!(
            (filter.name.as_str(), &filter.names[..]),
            ("web-only", &["no-mac-spoofing".into(), "no-ip-spoofing".into()][..])
        );
        assert_eq!(filter.uuid, Some("2a5b08e4-3bf0-4db2-8e5b-7c1c4f2d9a01".parse().expect("valid")));
        assert!(!filter.xml().contains("uuid") && filter.xml().contains("dstportstart='80'"), "{}", filter.xml());
        let without = read(filter.xml());
        assert_eq!((without.uuid, without.xml()), (None, filter.xml()));
    }

    #[test]
    fn a_filter_is_defined_under_another_uuid_and_is_the_same() {
        let ours = Uuid::from_u128(7);
        for xml in [FILTER, "<filter name='a &amp; b'/>", "<filter name='a' chain='root'></filter>"] {
            let filter = read(xml);
            let defined = read(&filter.xml_with(ours).expect("valid"));
            assert_eq!((defined.uuid, &defined.name, &defined.names), (Some(ours), &filter.name, &filter.names));
            assert!(defined.is_same_as(&filter), "{}", defined.xml());
        }
    }

    #[test]
    fn how_it_is_written_makes_no_difference() {
        let other = FILTER
            .replace("2a5b08e4", "2a5b08e5")
            .replace("<rule action='accept' direction='in'", "<!-- why --><rule direction=\"in\"  action='accept'")
            .replace("\n  ", "\n\n    ");
        assert_ne!(other, FILTER);
        assert!(read(FILTER).is_same_as(&read(&other)));
    }

    #[test]
    fn what_is_let_through_does() {
        for (from, to) in [
            ("'80'", "'81'"),
            ("'100'", "'600'"),
            ("<rule action='drop' direction='in' priority='500'/>", ""),
            ("<tcp dstportstart='80'/>", "<tcp dstportstart='80'/>text"),
            ("<tcp dstportstart='80'/>", "<tcp/>"),
            ("<filterref filter='no-mac-spoofing'/>", "<filterref filter='no-arp-spoofing'/>"),
            ("192.0.2.7", "192.0.2.8"),
            (" chain='root'", ""),
            ("web-only", "web"),
        ] {
            let changed = FILTER.replace(from, to);
            assert_ne!(changed, FILTER, "{from}");
            assert!(!read(FILTER).is_same_as(&read(&changed)) && !read(&changed).is_same_as(&read(FILTER)), "{to}");
        }
        let [element, text] = ["<a>b</a>", "b"].map(|inner| read(&format!("<filter name='a'>{inner}</filter>")));
        assert!(!element.is_same_as(&text) && !text.is_same_as(&element));
        // Of two rules of one priority the first counts.
        let [one, other] = ["in", "out"].map(|direction| format!("<rule action='drop' direction='{direction}'/>"));
        let filter = |rules: [&str; 2]| read(&format!("<filter name='a'>{}</filter>", rules.concat()));
        assert!(!filter([&one, &other]).is_same_as(&filter([&other, &one])));
    }

    #[test]
    fn what_is_no_filter_is_not_taken_for_one() {
        assert_eq!(FilterDefinition::parse("<domain/>"), Err(Error::Missing { parent: "document", wanted: "filter" }));
        assert_eq!(FilterDefinition::parse("<filter/>"), Err(Error::Missing { parent: "filter", wanted: "name" }));
        assert!(matches!(FilterDefinition::parse("<filter name='a'"), Err(Error::Malformed(_))));
    }
}
