//! librados and librbd, as far as it takes to tell what an image is. These functions have not changed since Ceph 13.
#![expect(unsafe_code, reason = "C calls, in a process of their own")]

use std::{
    ffi::{CString, c_char, c_int, c_void},
    ptr,
};

use bytesize::ByteSize;

use super::{Question, Step, Trouble};
use crate::storage::{
    look::library::{self as c, Text, library, pointer},
    with_causes,
};

const RADOS: &str = "librados.so.2";
const RBD: &str = "librbd.so.1";

/// Longer than any id, name prefix or fsid.
const LONGEST: usize = 4096;

/// `rados_t`, `rados_ioctx_t` and `rbd_image_t`: pointers to what only the libraries know.
type Handle = *mut c_void;
type Buffer = *mut c_char;

/// An error number, positive.
type Number = i32;

library! { Rados:
    rados_create(*mut Handle, Text) -> c_int;
    rados_conf_read_file(Handle, Text) -> c_int;
    rados_conf_set(Handle, Text, Text) -> c_int;
    rados_connect(Handle) -> c_int;
    rados_cluster_fsid(Handle, Buffer, usize) -> c_int;
    rados_ioctx_create(Handle, Text, *mut Handle) -> c_int;
    rados_ioctx_set_namespace(Handle, Text);
    rados_ioctx_destroy(Handle);
}

library! { Librbd:
    rbd_open_read_only(Handle, Text, *mut Handle, Text) -> c_int;
    rbd_get_size(Handle, *mut u64) -> c_int;
    rbd_get_id(Handle, Buffer, usize) -> c_int;
    rbd_get_block_name_prefix(Handle, Buffer, usize) -> c_int;
    rbd_close(Handle) -> c_int;
}

/// A cluster that has let us in. It stays connected until the process ends.
pub(super) struct Cluster {
    rados: Rados,
    rbd: Librbd,
    handle: Handle,
}

/// A pool, or a namespace in it.
pub(super) struct Pool<'a> {
    cluster: &'a Cluster,
    handle: Handle,
}

/// An image that is open, for reading.
pub(super) struct Image<'a> {
    pool: &'a Pool<'a>,
    handle: Handle,
}

// SAFETY: both libraries allow calls from any thread, for one cluster at once.
unsafe impl Send for Cluster {}
// SAFETY: as above.
unsafe impl Sync for Cluster {}

impl Cluster {
    /// Connects as QEMU does.
    pub(super) fn connect(to: &Question<'_>) -> Result<Self, Trouble> {
        let library = |error: libloading::Error| Trouble::Library(with_causes(&error));
        let (rados, rbd) = (Rados::load(RADOS).map_err(library)?, Librbd::load(RBD).map_err(library)?);
        let at = |step| move |number| Trouble::Ceph { step, number };
        let user = to.user.as_deref().map(text).transpose().map_err(at(Step::Configure))?;
        let mut handle = ptr::null_mut();
        // SAFETY: the name is ours and a string, or none; the result is ours.
        check(unsafe { (rados.rados_create)(&mut handle, pointer(user.as_ref())) }).map_err(at(Step::Configure))?;
        let cluster = Self { rados, rbd, handle };
        cluster.configure(to).map_err(at(Step::Configure))?;
        // SAFETY: the handle was made above.
        check(unsafe { (cluster.rados.rados_connect)(cluster.handle) }).map_err(at(Step::Connect))?;
        Ok(cluster)
    }

    fn configure(&self, to: &Question<'_>) -> Result<(), Number> {
        let path = to.configuration.as_deref().map(text).transpose()?;
        // SAFETY: the handle is whole, the path is ours and a string, or none: then Ceph has its own.
        let read = check(unsafe { (self.rados.rados_conf_read_file)(self.handle, pointer(path.as_ref())) });
        // Where none is named, none need be there.
        if path.is_some() {
            read?;
        }
        // It waits for minutes.
        let patience = to.patience.as_secs().max(1).to_string();
        for name in ["client_mount_timeout", "rados_mon_op_timeout", "rados_osd_op_timeout"] {
            self.set(name, &patience)?;
        }
        if !to.monitors.is_empty() {
            self.set("mon_host", &to.monitors.join(","))?;
        }
        to.key.as_deref().map_or(Ok(()), |key| self.set("key", key))
    }

    fn set(&self, name: &str, value: &str) -> Result<(), Number> {
        let (name, value) = (text(name)?, text(value)?);
        // SAFETY: the handle is whole; both are strings, and copied.
        check(unsafe { (self.rados.rados_conf_set)(self.handle, name.as_ptr(), value.as_ptr()) }).map(drop)
    }

    /// Its id, which no other cluster has.
    pub(super) fn fsid(&self) -> Result<String, Number> {
        // SAFETY: the handle is whole; the buffer is as long as said.
        read(|buffer, length| unsafe { (self.rados.rados_cluster_fsid)(self.handle, buffer, length) })
    }

    /// A pool of it, or a namespace there.
    pub(super) fn pool(&self, name: &str, namespace: &str) -> Result<Pool<'_>, Number> {
        let (name, namespace) = (text(name)?, text(namespace)?);
        let mut handle = ptr::null_mut();
        // SAFETY: the handle is whole, the name is a string, the result is ours.
        check(unsafe { (self.rados.rados_ioctx_create)(self.handle, name.as_ptr(), &mut handle) })?;
        // SAFETY: the handle was made above; the name is a string, and copied.
        unsafe { (self.rados.rados_ioctx_set_namespace)(handle, namespace.as_ptr()) };
        Ok(Pool { cluster: self, handle })
    }
}

impl Pool<'_> {
    /// An image of it, or a snapshot of that.
    pub(super) fn image(&self, name: &str, snapshot: Option<&str>) -> Result<Image<'_>, Number> {
        let (name, snapshot) = (text(name)?, snapshot.map(text).transpose()?);
        let mut handle = ptr::null_mut();
        let open = self.cluster.rbd.rbd_open_read_only;
        // SAFETY: the handle is whole, both names are strings, or none; the result is ours.
        check(unsafe { open(self.handle, name.as_ptr(), &mut handle, pointer(snapshot.as_ref())) })?;
        Ok(Image { pool: self, handle })
    }
}

impl Image<'_> {
    /// What a guest would see.
    pub(super) fn size(&self) -> Result<ByteSize, Number> {
        let mut size = 0;
        // SAFETY: the handle is whole, the result is ours.
        check(unsafe { (self.pool.cluster.rbd.rbd_get_size)(self.handle, &mut size) })?;
        Ok(ByteSize::b(size))
    }

    /// What tells it from the others of its cluster.
    pub(super) fn id(&self) -> Result<String, Number> {
        let rbd = &self.pool.cluster.rbd;
        // SAFETY: the handle is whole; the buffer is as long as said.
        let id = read(|buffer, length| unsafe { (rbd.rbd_get_id)(self.handle, buffer, length) });
        match id {
            Ok(id) if !id.is_empty() => Ok(id),
            // Images of the first format have none, but their objects have names of their own.
            // SAFETY: as above.
            _ => read(|buffer, length| unsafe { (rbd.rbd_get_block_name_prefix)(self.handle, buffer, length) }),
        }
    }
}

impl Drop for Pool<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is whole, and nobody has it any more: images borrow their pool.
        unsafe { (self.cluster.rados.rados_ioctx_destroy)(self.handle) }
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is whole, and nobody has it any more.
        unsafe { (self.pool.cluster.rbd.rbd_close)(self.handle) };
    }
}

fn text(text: &str) -> Result<CString, Number> {
    c::text(text).map_err(|_| libc::EINVAL)
}

/// The libraries return error numbers below zero.
fn check(result: c_int) -> Result<usize, Number> {
    usize::try_from(result).map_err(|_| -result)
}

/// A string that a library writes.
fn read(write: impl FnOnce(Buffer, usize) -> c_int) -> Result<String, Number> {
    let mut buffer = vec![0_u8; LONGEST];
    check(write(buffer.as_mut_ptr().cast(), buffer.len()))?;
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    buffer.truncate(end);
    String::from_utf8(buffer).map_err(|_| libc::EILSEQ)
}
