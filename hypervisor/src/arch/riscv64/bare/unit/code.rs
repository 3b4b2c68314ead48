//! Guest code: assembly in the hypervisor's image, copied to where the guest runs it.

/// `guest_code!(name, "...", "...")` is a function `name() -> &'static [u8]` with the assembled bytes of the fragment, without
/// compressed instructions unless it turns them on. It must not depend on where it lies.
macro_rules! guest_code {
    ($name:ident, $($line:literal),+ $(,)?) => {
        core::arch::global_asm!(
            ".pushsection .rodata.guest, \"a\"",
            ".option push",
            ".option arch, +h",
            ".option norvc",
            ".option norelax",
            ".balign 16",
            // The function may end up in another object file.
            concat!(".globl guest_", stringify!($name)),
            concat!(".globl guest_", stringify!($name), "_end"),
            concat!("guest_", stringify!($name), ":"),
            $($line,)+
            concat!("guest_", stringify!($name), "_end:"),
            ".option pop",
            ".popsection",
        );
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: two addresses in the image are loaded, nothing else.
            unsafe {
                core::arch::asm!(
                    concat!("la {0}, guest_", stringify!($name)),
                    concat!("la {1}, guest_", stringify!($name), "_end"),
                    out(reg) start, out(reg) end, options(nomem, nostack, preserves_flags),
                )
            };
            // SAFETY: the assembler put these bytes there, in one piece; nobody writes to them.
            unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
        }
    };
}
pub(super) use guest_code;
