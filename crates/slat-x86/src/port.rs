//! I/O ports: which lead to an exit.

use slat::device::{Port, PortRange};

/// The ports whose accesses lead to an exit; all others are the guest's own. At most eight ranges, of all 65,536 ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Intercepted {
    ranges: [Option<PortRange>; 8],
}

impl Intercepted {
    /// No port.
    pub const NONE: Self = Self { ranges: [None; 8] };

    /// Every port.
    #[must_use]
    pub fn all() -> Self {
        let mut all = Self::NONE;
        all.ranges[0] = PortRange::inclusive(Port(0), Port(u16::MAX)).ok();
        all
    }

    /// The same and `range`; `None` if there are eight already.
    #[must_use]
    pub fn with(mut self, range: PortRange) -> Option<Self> {
        *self.ranges.iter_mut().find(|place| place.is_none())? = Some(range);
        Some(self)
    }

    /// Whether accesses to this port lead to an exit.
    #[must_use]
    pub fn contains(&self, port: Port) -> bool {
        self.ranges.iter().flatten().any(|range| range.contains(port))
    }

    /// Byte `index` of a bitmap with one bit for each port, port 0 first: what both vendors' bitmaps consist of (SDM vol. 3C,
    /// "I/O-Bitmap Addresses"; APM vol. 2, "I/O Permissions Map").
    #[must_use]
    pub fn byte(&self, index: u16) -> u8 {
        let first = u32::from(index) * 8;
        let bits = |range: &PortRange| {
            let low = u32::from(range.first().0).max(first);
            let high = u32::from(range.last().0).min(first + 7);
            if low > high { 0 } else { 0xff << (low - first) & 0xff >> (first + 7 - high) }
        };
        // The places are taken from the first one on.
        let ranges = self.ranges.iter().map_while(Option::as_ref);
        ranges.map(bits).fold(0, |byte, bits| byte | bits) as u8
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
