//! C libraries of the storage's. They are loaded when they are needed: a host that has no such storage does not have them.
#![expect(unsafe_code, reason = "C calls, in a process of their own")]

use std::{
    ffi::{CString, NulError, c_char},
    ptr,
};

/// A C string that is read.
pub(in crate::storage) type Text = *const c_char;

/// Functions of a library, by their names in it.
macro_rules! library {
    ($name:ident: $($function:ident($($argument:ty),*) $(-> $result:ty)?;)+) => {
        struct $name { $($function: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+ }

        impl $name {
            fn load(file: &str) -> Result<Self, libloading::Error> {
                // SAFETY: the library's initialisers are those that QEMU runs, too. Who names the functions gives the types of the
                // library's headers. And the library stays for as long as the process, as the functions must.
                unsafe {
                    let library = std::mem::ManuallyDrop::new(libloading::Library::new(file)?);
                    Ok(Self { $($function: *library.get(stringify!($function))?,)+ })
                }
            }
        }
    };
}
pub(in crate::storage) use library;

/// Text for C.
pub(in crate::storage) fn text(text: &str) -> Result<CString, NulError> {
    CString::new(text)
}

/// Where it is, or nowhere.
pub(in crate::storage) fn pointer(text: Option<&CString>) -> Text {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

/// Ends the process at once, well.
pub(in crate::storage) fn exit() -> ! {
    // SAFETY: nothing of ours is to be done any more.
    unsafe { libc::_exit(0) }
}
