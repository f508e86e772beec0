//! libiscsi, as far as it takes to ask a LUN what it is.
//!
//! Its structures differ from one version to the next, and distributions number the versions in their own ways. So they stay
//! shut: commands are built from bytes, and their data goes to a buffer of ours. All these functions are in it since 1.13, and
//! have stayed the same up to 1.20.
#![expect(unsafe_code, reason = "C calls, in a process of their own")]

use std::{
    ffi::{CStr, NulError, c_int, c_uchar, c_void},
    ptr,
};

use super::{Lun, Why, pages};
use crate::storage::{
    look::library::{Text, library, text},
    with_causes,
};

/// Of versions 1.13 to 1.20.
const FILES: [&str; 5] = ["libiscsi.so.7", "libiscsi.so.8", "libiscsi.so.9", "libiscsi.so.10", "libiscsi.so.11"];

/// From libiscsi's headers.
const SESSION_NORMAL: c_int = 2;
const HEADER_DIGEST_NONE_CRC32C: c_int = 1;
const XFER_READ: c_int = 1;
const STATUS_GOOD: c_int = 0;

/// Of every page of vital product data so much is read at first. There are targets that look at one byte of this length.
const FIRST: u16 = 0xff;
/// Of READ CAPACITY (16).
const CAPACITY: u8 = 32;

/// `struct iscsi_context *` and `struct scsi_task *`.
type Context = *mut c_void;
type Task = *mut c_void;

library! { Functions:
    iscsi_create_context(Text) -> Context;
    iscsi_set_targetname(Context, Text) -> c_int;
    iscsi_set_session_type(Context, c_int) -> c_int;
    iscsi_set_header_digest(Context, c_int) -> c_int;
    iscsi_set_initiator_username_pwd(Context, Text, Text) -> c_int;
    iscsi_full_connect_sync(Context, Text, c_int) -> c_int;
    iscsi_scsi_command_sync(Context, c_int, Task, *mut c_void) -> Task;
    iscsi_logout_sync(Context) -> c_int;
    iscsi_get_error(Context) -> Text;
    scsi_create_task(c_int, *mut c_uchar, c_int, c_int) -> Task;
    scsi_task_add_data_in_buffer(Task, c_int, *mut c_uchar) -> c_int;
    scsi_task_get_status(Task, *mut c_void) -> c_int;
    scsi_free_scsi_task(Task);
}

/// The library.
pub(super) struct Libiscsi(Functions);

/// A session with a LUN's target. Only [`close`](Self::close) ends it early; what is left of it goes with the process, for a
/// command that failed may still be in there.
pub(super) struct Session<'a> {
    functions: &'a Functions,
    context: Context,
    lun: c_int,
}

impl Libiscsi {
    /// Whichever version is there; or why none is.
    pub(super) fn find() -> Result<Self, String> {
        let mut errors = Vec::new();
        for file in FILES {
            match Functions::load(file) {
                Ok(functions) => return Ok(Self(functions)),
                Err(error) => errors.push(with_causes(&error)),
            }
        }
        Err(errors.join("; "))
    }
}

impl<'a> Session<'a> {
    /// Logs in as QEMU does, and waits until the LUN is ready.
    pub(super) fn open(library: &'a Libiscsi, to: &Lun<'_>, portal: &str) -> Result<Self, Why> {
        let functions = &library.0;
        let no_text = |error: NulError| Why::Senseless(error.to_string());
        let (initiator, target) = (text(&to.initiator).map_err(no_text)?, text(&to.target).map_err(no_text)?);
        let portal = text(portal).map_err(no_text)?;
        // SAFETY: the name is a string, and copied.
        let context = unsafe { (functions.iscsi_create_context)(initiator.as_ptr()) };
        if context.is_null() {
            return Err(Why::Senseless("libiscsi does not take the initiator's name".into()));
        }
        let session = Self { functions, context, lun: to.lun.into() };
        // SAFETY: the context was made above, and the name is a string, and copied.
        session.check(unsafe { (functions.iscsi_set_targetname)(context, target.as_ptr()) })?;
        // SAFETY: as above; and the header has such a type of sessions.
        session.check(unsafe { (functions.iscsi_set_session_type)(context, SESSION_NORMAL) })?;
        // SAFETY: as above.
        session.check(unsafe { (functions.iscsi_set_header_digest)(context, HEADER_DIGEST_NONE_CRC32C) })?;
        if let Some((user, password)) = &to.login {
            let (user, password) = (text(user).map_err(no_text)?, text(password).map_err(no_text)?);
            let login = functions.iscsi_set_initiator_username_pwd;
            // SAFETY: as above; both are strings, and copied.
            session.check(unsafe { login(context, user.as_ptr(), password.as_ptr()) })?;
        }
        // SAFETY: as above.
        session.check(unsafe { (functions.iscsi_full_connect_sync)(context, portal.as_ptr(), session.lun) })?;
        Ok(session)
    }

    /// A page of vital product data.
    pub(super) fn page(&self, code: u8) -> Result<&'static [u8], Why> {
        let ask = |length: u16| {
            let [high, low] = length.to_be_bytes();
            self.command(&mut [0x12, 1, code, high, low, 0], length)
        };
        let page = ask(FIRST)?;
        match u16::try_from(pages::length(page)) {
            Ok(length) if length > FIRST => ask(length),
            _ => Ok(page),
        }
    }

    /// How long it is.
    pub(super) fn capacity(&self) -> Result<&'static [u8], Why> {
        let mut command = [0; 16];
        (command[0], command[1], command[13]) = (0x9e, 0x10, CAPACITY);
        self.command(&mut command, CAPACITY.into())
    }

    /// Logs out.
    pub(super) fn close(self) {
        // SAFETY: the context is whole, and no command is on its way. What the target says does not matter any more.
        unsafe { (self.functions.iscsi_logout_sync)(self.context) };
    }

    /// What is not read stays zero.
    fn command(&self, command: &mut [u8], length: u16) -> Result<&'static [u8], Why> {
        let functions = self.functions;
        // For as long as the process, which is short: a command that fails may leave it with libiscsi.
        let data = vec![0; length.into()].leak();
        let size = c_int::try_from(command.len()).map_err(|error| Why::Senseless(error.to_string()))?;
        // SAFETY: so long is the command, which is copied; it has room in a task: 16 bytes.
        let task = unsafe { (functions.scsi_create_task)(size, command.as_mut_ptr(), XFER_READ, length.into()) };
        // SAFETY: if there is a task it is whole; and so long is the data, which stays.
        if task.is_null()
            || unsafe { (functions.scsi_task_add_data_in_buffer)(task, length.into(), data.as_mut_ptr()) } != 0
        {
            return Err(Why::Senseless("libiscsi has no memory".into()));
        }
        // SAFETY: both are whole, and no other thread has them; there is nothing to be sent.
        let done = unsafe { (functions.iscsi_scsi_command_sync)(self.context, self.lun, task, ptr::null_mut()) };
        if done.is_null() {
            return Err(Why::Session(self.last_words()));
        }
        // SAFETY: the task is whole, and done; nobody wants its sense data.
        let status = unsafe { (functions.scsi_task_get_status)(done, ptr::null_mut()) };
        // SAFETY: as above; and nobody has it any more.
        unsafe { (functions.scsi_free_scsi_task)(done) };
        if status == STATUS_GOOD { Ok(data) } else { Err(Why::Command(self.last_words())) }
    }

    fn check(&self, result: c_int) -> Result<(), Why> {
        if result == 0 { Ok(()) } else { Err(Why::Session(self.last_words())) }
    }

    fn last_words(&self) -> String {
        // SAFETY: the context is whole; its last error is a string, and stays until the next one.
        let words = unsafe { CStr::from_ptr((self.functions.iscsi_get_error)(self.context)) };
        words.to_string_lossy().trim().to_owned()
    }
}
