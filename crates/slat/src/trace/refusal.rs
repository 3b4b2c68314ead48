//! Why an operation changed nothing, in few words: the errors of all operations, without what they carry.

use super::event::names;
use crate::error::{
    ClearError, CollapseError, CollectLogError, DiscardError, ForkError, InheritError, MapError,
    MigrateError, PageOutError, PinError, PopulateError, ProtectError, ResetError, ScanError, StartLogError,
    StopLogError, UnmapError, UnpinError,
};

names! {
    /// Why a structural operation changed nothing.
    Refusal {
        /// An argument is wrong: the range, an alignment, flags, a tag, a buffer that is too short.
        BadArgument "bad argument",
        /// Something of the range is not mapped.
        NotMapped "not mapped",
        /// Something of the range is mapped already, or logged already.
        AlreadyThere "already there",
        /// What is there is nothing to do this with: another backend or host, not logged, not pinned.
        NotSuited "not suited",
        /// Something of the range is pinned.
        Pinned "pinned",
        /// The host has not enough frames.
        OutOfMemory "out of memory",
    }
}

/// An error of an operation.
pub(crate) trait Refused {
    /// In few words.
    fn refusal(&self) -> Refusal;
}

macro_rules! refusals {
    ($($error:ident { $($refusal:ident: $($variant:ident)|+;)* })*) => {
        $(impl Refused for $error {
            fn refusal(&self) -> Refusal {
                match self {
                    $($(Self::$variant { .. })|+ => Refusal::$refusal,)*
                }
            }
        })*
    };
}

refusals! {
    MapError {
        BadArgument: BadRange | UnalignedHost | HostTooWide | HostProtected | UnsupportedFlags | UnalignedOffset | BeyondBackend;
        AlreadyThere: AlreadyMapped;
        NotSuited: NoPager | OtherHost | TooManyShared;
        OutOfMemory: OutOfMemory;
    }
    UnmapError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        Pinned: Pinned;
        OutOfMemory: OutOfMemory;
    }
    ProtectError {
        BadArgument: BadRange | UnsupportedFlags;
        NotMapped: NotMapped;
        OutOfMemory: OutOfMemory;
    }
    DiscardError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        NotSuited: NotOwned;
        Pinned: Pinned;
        OutOfMemory: OutOfMemory;
    }
    PageOutError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        NotSuited: NotPaged;
        Pinned: Pinned;
    }
    UnpinError {
        BadArgument: BadRange;
        NotSuited: NotPinned;
        OutOfMemory: OutOfMemory;
    }
    ForkError {
        BadArgument: TagTooWide;
        NotSuited: OtherHost;
        OutOfMemory: OutOfMemory;
    }
    ResetError {
        NotSuited: OtherHost | OtherShape;
        Pinned: Pinned;
        OutOfMemory: OutOfMemory;
    }
    InheritError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        OutOfMemory: OutOfMemory;
    }
    ClearError {
        Pinned: Pinned;
    }
    MigrateError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        NotSuited: NotOwned;
        Pinned: Pinned;
        OutOfMemory: OutOfMemory;
    }
    PopulateError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        NotSuited: Refused;
        OutOfMemory: OutOfMemory;
    }
    CollapseError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
    }
    StartLogError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        AlreadyThere: AlreadyLogged;
        OutOfMemory: OutOfMemory;
    }
    CollectLogError {
        BadArgument: BadRange | BitmapTooSmall;
        NotMapped: NotMapped;
        NotSuited: NotLogged;
        OutOfMemory: OutOfMemory;
    }
    ScanError {
        BadArgument: BadRange | AgesTooShort;
        OutOfMemory: OutOfMemory;
    }
    StopLogError {
        BadArgument: BadRange;
        NotMapped: NotMapped;
        NotSuited: NotLogged;
        OutOfMemory: OutOfMemory;
    }
}

impl Refused for PinError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Populate(error) => error.refusal(),
            Self::NoMemory(_) | Self::NoAccess(_) | Self::TooMany(_) => Refusal::NotSuited,
            Self::OutOfMemory => Refusal::OutOfMemory,
        }
    }
}
