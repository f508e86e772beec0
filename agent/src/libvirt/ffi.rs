//! The C calls that `virt` 0.5 lacks (events, abort, CPU comparison, control information) or gets wrong: its `state()`
//! swallows errors, its `job_stats()` frees what malloc allocated, its `migrate_to_uri3()` leaks its strings, its `value()` leaks secrets.
#![expect(unsafe_code, reason = "C calls; of the crate's other files only storage/rbd/library.rs has some, too")]

use std::{
    ffi::{CStr, CString, c_int, c_void},
    mem, ptr, slice,
    sync::Arc,
    time::Duration,
};

use secrecy::{SecretSlice, zeroize::Zeroize as _};
use virt::{connect::Connect, domain::Domain, secret::Secret};
use virt_sys as sys;

use super::{
    Fault,
    event::{Event, Sender},
    statistics::Params,
};

/// Initialises the library. Threads must not race for it, so it comes first.
pub(super) fn initialize() -> Result<(), Fault> {
    // SAFETY: no arguments; called once, before anything else of libvirt.
    check(unsafe { sys::virInitialize() })
}

/// The domain's `virDomainState` and the reason for it.
pub(super) fn state(domain: &Domain) -> Result<(sys::virDomainState, u32), Fault> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: `domain` holds a reference for the whole call; both results are ours.
    check(unsafe { sys::virDomainGetState(domain.as_ptr(), &mut state, &mut reason, 0) })?;
    Ok((state.cast_unsigned(), reason.cast_unsigned()))
}

/// The state of libvirt's way to the domain's monitor, a `virDomainControlState`, and since how many milliseconds.
pub(super) fn control(domain: &Domain) -> Result<(sys::virDomainControlState, u64), Fault> {
    let mut info = sys::virDomainControlInfo { state: 0, details: 0, stateTime: 0 };
    // SAFETY: `domain` holds a reference for the whole call; the result is ours.
    check(unsafe { sys::virDomainGetControlInfo(domain.as_ptr(), &mut info, 0) })?;
    Ok((info.state, info.stateTime))
}

/// The statistics of the job that runs; `None` when none does.
pub(super) fn job_statistics(domain: &Domain) -> Result<Option<Params>, Fault> {
    let (mut kind, mut count, mut params) = (0, 0, ptr::null_mut());
    // SAFETY: `domain` holds a reference for the whole call; on success libvirt hands us `params` of `count` elements.
    check(unsafe { sys::virDomainGetJobStats(domain.as_ptr(), &mut kind, &mut params, &mut count, 0) })?;
    // SAFETY: as above; after the copy nobody else has the parameters, and libvirt's own function frees them.
    let copy = unsafe {
        let copy = read(params, count);
        sys::virTypedParamsFree(params, count);
        copy
    };
    Ok((kind.cast_unsigned() != sys::VIR_DOMAIN_JOB_NONE).then_some(copy))
}

/// Has QEMU count what the guest writes to, of some of its pages, for whole seconds. Returns before it has.
pub(super) fn start_dirty_rate(domain: &Domain, period: Duration) -> Result<(), Fault> {
    let seconds = c_int::try_from(period.as_secs()).unwrap_or(c_int::MAX);
    // SAFETY: `domain` holds a reference for the whole call.
    check(unsafe {
        sys::virDomainStartDirtyRateCalc(domain.as_ptr(), seconds, sys::VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING)
    })
}

/// What QEMU has counted, in MiB per second; `None` while it counts.
pub(super) fn dirty_rate(domain: &Domain) -> Result<Option<u64>, Fault> {
    let mut records = ptr::null_mut();
    // SAFETY: the list ends with a null, and the domain in it holds a reference for the whole call; on success libvirt hands us a
    // list of as many records as it says, which its own function frees.
    let numbers = unsafe {
        let mut domains = [domain.as_ptr(), ptr::null_mut()];
        let count = sys::virDomainListGetStats(domains.as_mut_ptr(), sys::VIR_DOMAIN_STATS_DIRTYRATE, &mut records, 0);
        check(count)?;
        let numbers = (count > 0).then(|| read((**records).params, (**records).nparams));
        sys::virDomainStatsRecordListFree(records);
        numbers.unwrap_or_default()
    };
    Ok(numbers.dirty_rate())
}

/// Asks the job that runs to end. Returns before it has.
pub(super) fn abort_job(domain: &Domain) -> Result<(), Fault> {
    // SAFETY: `domain` holds a reference for the whole call.
    check(unsafe { sys::virDomainAbortJob(domain.as_ptr()) })
}

/// Has the job that runs go on as postcopy: the guest goes on where it arrives. Returns before it does.
pub(super) fn start_postcopy(domain: &Domain) -> Result<(), Fault> {
    // SAFETY: `domain` holds a reference for the whole call.
    check(unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) })
}

/// For how many milliseconds QEMU may let the guest stand still when it migrates.
pub(super) fn max_downtime(domain: &Domain) -> Result<u64, Fault> {
    let mut milliseconds = 0;
    // SAFETY: `domain` holds a reference for the whole call; the result is ours.
    check(unsafe { sys::virDomainMigrateGetMaxDowntime(domain.as_ptr(), &mut milliseconds, 0) })?;
    Ok(milliseconds)
}

/// The value of a parameter.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parameter<'a> {
    Text(&'a str),
    Percent(u8),
    Count(i32),
    Number(u64),
}

/// Moves the domain; returns when it has, or has not. `flags` are `VIR_MIGRATE_*`; `parameters` are
/// `VIR_MIGRATE_PARAM_*`, the same name several times for a list.
pub(super) fn migrate(
    domain: &Domain,
    libvirt_uri: &str,
    parameters: &[(&CStr, Parameter<'_>)],
    flags: u32,
) -> Result<(), Fault> {
    let libvirt_uri = CString::new(libvirt_uri)?;
    let (mut params, mut count, mut room) = (ptr::null_mut(), 0, 0);
    let mut add = |name: &CStr, value: Parameter<'_>| {
        let text = CString::new(if let Parameter::Text(text) = value { text } else { "" })?;
        let (list, length, room, name) = (&mut params, &mut count, &mut room, name.as_ptr());
        // SAFETY: the list begins empty and grows by libvirt's own functions, which copy the strings.
        check(unsafe {
            match value {
                Parameter::Text(_) => sys::virTypedParamsAddString(list, length, room, name, text.as_ptr()),
                Parameter::Percent(percent) => sys::virTypedParamsAddInt(list, length, room, name, percent.into()),
                Parameter::Count(count) => sys::virTypedParamsAddInt(list, length, room, name, count),
                Parameter::Number(number) => sys::virTypedParamsAddULLong(list, length, room, name, number),
            }
        })
    };
    let added = parameters.iter().try_for_each(|(name, value)| add(name, *value));
    let moved = added.and_then(|()| {
        // SAFETY: `domain` holds a reference for the whole call; the strings and parameters outlive it. libvirt only
        // reads the parameters.
        check(unsafe {
            let length = count.cast_unsigned();
            sys::virDomainMigrateToURI3(domain.as_ptr(), libvirt_uri.as_ptr(), params, length, flags)
        })
    });
    // SAFETY: nobody else has the parameters. Freed only after the error is taken: freeing must not be what it tells of.
    unsafe { sys::virTypedParamsFree(params, count) };
    moved
}

/// Compares a guest's CPU with what this host's hypervisor can give to a guest of that kind. An error with code
/// `VIR_ERR_CPU_INCOMPATIBLE` says what is missing.
pub(super) fn compare_cpu(
    connection: &Connect,
    architecture: &str,
    machine: &str,
    virt_type: &str,
    cpu: &str,
) -> Result<(), Fault> {
    let (architecture, machine) = (CString::new(architecture)?, CString::new(machine)?);
    let (virt_type, cpu) = (CString::new(virt_type)?, CString::new(cpu)?);
    // SAFETY: `connection` holds a reference and all strings outlive the call; a null emulator is the default one.
    check(unsafe {
        sys::virConnectCompareHypervisorCPU(
            connection.as_ptr(),
            ptr::null(),
            architecture.as_ptr(),
            machine.as_ptr(),
            virt_type.as_ptr(),
            cpu.as_ptr(),
            sys::VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE,
        )
    })
}

/// The secret's value. An error with code `VIR_ERR_NO_SECRET` if it has none, `VIR_ERR_INVALID_SECRET` if it is private.
pub(super) fn secret_value(secret: &Secret) -> Result<SecretSlice<u8>, Fault> {
    let mut size = 0;
    // SAFETY: `secret` holds a reference for the whole call; on success libvirt hands us `value` of `size` bytes.
    let value = unsafe { sys::virSecretGetValue(secret.as_ptr(), &mut size, 0) };
    if value.is_null() {
        return Err(virt::error::Error::last_error().into());
    }
    // SAFETY: as above; nobody else has them. I6: no copy stays behind in memory that is free.
    unsafe {
        let bytes = slice::from_raw_parts_mut(value, size);
        let copy = bytes.to_vec();
        bytes.zeroize();
        libc::free(value.cast());
        Ok(copy.into())
    }
}

/// A domain's events, until dropped. Dropping asks libvirt to stop, so it blocks.
pub(super) struct Subscription {
    connection: Arc<Connect>,
    callbacks: Vec<c_int>,
}

impl Subscription {
    /// Sends the domain's lifecycle, the rounds of its migration and completed jobs to `sender`, from now on.
    pub(super) fn new(connection: &Arc<Connect>, domain: &Domain, sender: &Sender) -> Result<Self, Fault> {
        // If a registration fails, dropping this ends those before it.
        let mut subscription = Self { connection: Arc::clone(connection), callbacks: Vec::new() };
        // SAFETY: libvirt calls a lifecycle callback with the arguments of `virConnectDomainEventCallback`, which are
        // those of `on_lifecycle`; that it takes all callbacks as one type is how its interface is made.
        let lifecycle = unsafe { mem::transmute::<LifecycleCallback, GenericCallback>(on_lifecycle) };
        subscription.register(domain, sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, sender)?;
        // SAFETY: likewise, with `virConnectDomainEventMigrationIterationCallback` and `on_round`.
        let round = unsafe { mem::transmute::<RoundCallback, GenericCallback>(on_round) };
        subscription.register(domain, sys::VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, round, sender)?;
        // SAFETY: likewise, with `virConnectDomainEventJobCompletedCallback` and `on_job_completed`.
        let completed = unsafe { mem::transmute::<JobCompletedCallback, GenericCallback>(on_job_completed) };
        subscription.register(domain, sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, completed, sender)?;
        Ok(subscription)
    }

    fn register(
        &mut self,
        domain: &Domain,
        event: sys::virDomainEventID,
        callback: GenericCallback,
        sender: &Sender,
    ) -> Result<(), Fault> {
        let opaque = Box::into_raw(Box::new(sender.clone()));
        // SAFETY: connection and domain hold references for the whole call. `opaque` is a `Sender` as both callbacks
        // expect it; libvirt frees it with `free_sender` when the callback can no longer be called.
        let id = unsafe {
            let (connection, domain, event) = (self.connection.as_ptr(), domain.as_ptr(), event.cast_signed());
            sys::virConnectDomainEventRegisterAny(
                connection,
                domain,
                event,
                Some(callback),
                opaque.cast(),
                Some(free_sender),
            )
        };
        if let Err(fault) = check(id) {
            // SAFETY: what libvirt did not register it neither keeps nor frees.
            drop(unsafe { Box::from_raw(opaque) });
            return Err(fault);
        }
        self.callbacks.push(id);
        Ok(())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for id in self.callbacks.drain(..) {
            // SAFETY: the connection holds a reference; the id is one of its callbacks, deregistered once.
            if let Err(fault) = check(unsafe { sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), id) })
            {
                tracing::debug!(%fault, "an event callback was not deregistered; it ends with its connection");
            }
        }
    }
}

type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type LifecycleCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type RoundCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *mut c_void);
type JobCompletedCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, sys::virTypedParameterPtr, c_int, *mut c_void);

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let event = Event::Lifecycle { event: event.cast_unsigned(), detail: detail.cast_unsigned() };
    // SAFETY: `opaque` is what `register` made of a `Sender`; libvirt frees it only after the last callback.
    send(unsafe { &*opaque.cast() }, event);
    0
}

unsafe extern "C" fn on_round(_: sys::virConnectPtr, _: sys::virDomainPtr, _: c_int, opaque: *mut c_void) {
    // SAFETY: as in `on_lifecycle`.
    send(unsafe { &*opaque.cast() }, Event::Round);
}

unsafe extern "C" fn on_job_completed(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt lends `count` parameters for the callback's time; `opaque` as in `on_lifecycle`.
    let (sender, params) = unsafe { (&*opaque.cast(), read(params, count)) };
    send(sender, Event::JobCompleted(params));
}

/// Nobody listening any more is no error: the job's watcher ends before its subscription.
fn send(sender: &Sender, event: Event) {
    let _ = sender.send(event);
}

unsafe extern "C" fn free_sender(opaque: *mut c_void) {
    // SAFETY: `register` made it of a boxed `Sender`, and libvirt calls this once, last.
    drop(unsafe { Box::from_raw(opaque.cast::<Sender>()) });
}

/// Copies what is a number; texts and fractions are of no use to us.
///
/// # Safety
///
/// `params` points to `count` valid parameters, or `count` is not positive.
unsafe fn read(params: sys::virTypedParameterPtr, count: c_int) -> Params {
    let mut numbers = Params::default();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: within the list by the caller's promise; `field` ends with a NUL; `type_` says which part of
        // `value` is set.
        unsafe {
            let param = &*params.add(index);
            let number = match param.type_.cast_unsigned() {
                sys::VIR_TYPED_PARAM_INT => u64::try_from(param.value.i).ok(),
                sys::VIR_TYPED_PARAM_UINT => Some(param.value.ui.into()),
                sys::VIR_TYPED_PARAM_LLONG => u64::try_from(param.value.l).ok(),
                sys::VIR_TYPED_PARAM_ULLONG => Some(param.value.ul),
                _ => None,
            };
            if let Some(number) = number {
                numbers.insert(CStr::from_ptr(param.field.as_ptr()), number);
            }
        }
    }
    numbers
}

/// libvirt keeps its last error per thread: this must follow the call on the same one.
fn check(status: c_int) -> Result<(), Fault> {
    if status < 0 { Err(virt::error::Error::last_error().into()) } else { Ok(()) }
}
