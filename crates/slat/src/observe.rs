//! How long something took, for those who trace.
//!
//! Without the feature `tracing` a [`Begin`] has no contents, and nothing asks the host for a tracer or the time.

use crate::hal::Hal;

/// When something began; nothing if nobody wants to know.
#[derive(Clone, Copy)]
pub(crate) struct Begin {
    #[cfg(feature = "tracing")]
    time: Option<u64>,
}

impl Begin {
    /// Now.
    #[inline(always)]
    pub(crate) fn now<H: Hal>(hal: &H) -> Self {
        #[cfg(not(feature = "tracing"))]
        let _ = hal;
        Self {
            #[cfg(feature = "tracing")]
            time: hal.tracer().map(|_| hal.trace_time()),
        }
    }

    /// What began is over: an event, if there is a tracer. `tag` and `root` are those of the space.
    #[cfg(feature = "tracing")]
    #[inline(always)]
    pub(crate) fn end<H: Hal>(
        self,
        hal: &H,
        (tag, root): (u16, crate::addr::HostPhysAddr),
        what: impl FnOnce() -> crate::trace::What,
    ) {
        if let (Some(begin), Some(tracer)) = (self.time, hal.tracer()) {
            let (cpu, end) = (tracer.cpu(), hal.trace_time());
            tracer.ring().record(&crate::trace::Event { begin, end, cpu, tag, root, what: what() });
        }
    }
}
