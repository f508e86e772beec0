//! libvirt's network filters: read with all that they name, made for a guest that arrives, and taken away again if they are ours.

use virt::{connect::Connect, nwfilter::NWFilter};
use virt_sys as sys;
use vmferry_core::{
    domain_xml::FilterDefinition,
    nwfilter::{Gathered, gather, is_ours, uuid_of},
};

use super::{Error, Fault, Libvirt, connection::is_alive};

/// What libvirt says if it has no driver for filters, or if the daemon that has it is not there.
const NO_DRIVER: &[sys::virErrorNumber] =
    &[sys::VIR_ERR_NO_SUPPORT, sys::VIR_ERR_NO_CONNECT, sys::VIR_ERR_SYSTEM_ERROR];

impl Libvirt {
    /// The filters of these names, and all that they name in turn; see [`gather`]. `Err`: libvirt keeps no filters, in its words.
    ///
    /// # Errors
    /// libvirt does not answer, or says what is no filter.
    pub async fn gather_filters(&self, named: Vec<(String, String)>) -> Result<Result<Gathered, String>, Error> {
        let asked = "read the filters that a guest needs";
        self.read(asked, move |connection| {
            or_no_driver(connection, gather(named.clone(), |name| find(connection, name)))
        })
        .await
    }

    /// Those of these filters that are there. `Err`: libvirt keeps no filters, in its words.
    ///
    /// # Errors
    /// libvirt does not answer, or says what is no filter.
    pub async fn filters_of(&self, names: Vec<String>) -> Result<Result<Vec<FilterDefinition>, String>, Error> {
        self.read("look for filters", move |connection| {
            let found = names.iter().filter_map(|name| find(connection, name).transpose()).collect();
            or_no_driver(connection, found)
        })
        .await
    }

    /// All filters. `Err`: libvirt keeps none, or its daemon for them is not there, in its words.
    ///
    /// # Errors
    /// libvirt does not answer, or says what is no filter.
    pub async fn filters(&self) -> Result<Result<Vec<FilterDefinition>, String>, Error> {
        let listed = self.read("list its filters", |connection| {
            // One that has gone since is none.
            let readings = |filters: Vec<NWFilter>| {
                filters.iter().filter_map(|filter| or_no_filter(read(filter)).transpose()).collect()
            };
            let listed = connection.list_all_nw_filters(0).map_err(Fault::from).and_then(readings);
            or_no_driver(connection, listed)
        });
        listed.await
    }

    /// Makes a filter, marked as ours, if there is none of its name. Returns what is there of its name and is not the same; then
    /// nothing was changed.
    ///
    /// # Errors
    /// libvirt does not answer, or does not take it.
    pub async fn make_filter(&self, filter: &FilterDefinition) -> Result<Option<FilterDefinition>, Error> {
        let (asked, filter) = (format!("define filter {}", filter.name), filter.clone());
        let unwritable = |source| Error::Unreadable { asked: asked.clone(), source };
        let xml = filter.xml_with(uuid_of(&filter.name)).map_err(unwritable)?;
        self.change(asked, move |connection| match find(connection, &filter.name)? {
            Some(there) => Ok(Some(there).filter(|there| !there.is_same_as(&filter))),
            None => Ok(connection.define_nwfilter_xml(&xml).map(|_| None)?),
        })
        .await
    }

    /// Takes away a filter of ours. There being none is success; somebody else's stays. Call it only when nobody needs it.
    ///
    /// # Errors
    /// libvirt does not answer, or a guest that runs needs it.
    pub async fn undefine_filter(&self, name: &str) -> Result<(), Error> {
        let (asked, name) = (format!("undefine filter {name}"), name.to_owned());
        self.change(asked, move |connection| {
            let Some(filter) = lookup(connection, &name)? else { return Ok(()) };
            match or_no_filter(read(&filter))? {
                Some(reading) if is_ours(&reading) => or_no_filter(filter.undefine().map_err(Fault::from)).map(drop),
                _ => Ok(()),
            }
        })
        .await
    }
}

fn lookup(connection: &Connect, name: &str) -> Result<Option<NWFilter>, Fault> {
    or_no_filter(connection.lookup_nwfilter_by_name(name).map_err(Fault::from))
}

fn find(connection: &Connect, name: &str) -> Result<Option<FilterDefinition>, Fault> {
    lookup(connection, name)?.map_or(Ok(None), |filter| or_no_filter(read(&filter)))
}

fn read(filter: &NWFilter) -> Result<FilterDefinition, Fault> {
    let xml = filter.xml_desc(0)?;
    FilterDefinition::parse(&xml).map_err(|error| Fault { code: sys::VIR_ERR_XML_ERROR, message: error.to_string() })
}

/// `None` if the filter does not exist (any more).
fn or_no_filter<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(fault) if fault.is(&[sys::VIR_ERR_NO_NWFILTER]) => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// `Err` within if libvirt keeps no filters. A connection that broke says so with the same numbers.
fn or_no_driver<T>(connection: &Connect, answer: Result<T, Fault>) -> Result<Result<T, String>, Fault> {
    match answer {
        Err(fault) if fault.is(NO_DRIVER) && is_alive(connection) => Ok(Err(fault.message)),
        answer => answer.map(Ok),
    }
}

#[cfg(test)]
mod tests {
    //! The test driver keeps no filters: that ours come and go, guests show that move between real hosts.

    use super::*;

    #[tokio::test]
    async fn a_libvirt_without_filters_says_so() {
        let libvirt = Libvirt::new("test:///default");
        let named = vec![("vif a".to_owned(), "web".to_owned())];
        let why = libvirt.gather_filters(named).await.expect("an answer").expect_err("no driver");
        assert!(why.contains("not supported"), "{why}");
        assert!(libvirt.filters_of(vec!["web".into()]).await.expect("an answer").is_err());
        assert!(libvirt.filters().await.expect("an answer").is_err());
        let web = FilterDefinition::parse("<filter name='web'/>").expect("valid");
        assert!(matches!(libvirt.make_filter(&web).await, Err(Error::Refused { .. })));
    }
}
