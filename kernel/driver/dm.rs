// SPDX-License-Identifier: GPL-2.0

//! Device memory: what a card has on board; of a device without a card, pages of the kernel's.

use super::{
    device::{Ferroce, Ucontext},
    quota::{Counted, Kind},
};
use crate::{
    rdma::{
        dm::{self, NewDm},
        mmap::{SharedPages, UserMapping},
        umem::Umem,
        UserCall,
    },
    uapi,
    verbs::limits,
};
use kernel::{bindings::PAGE_SHIFT, prelude::*, sync::Arc};

// The provider reads the offset there.
const _: () = assert!(dm::OFFSET_ATTR == uapi::ATTR_ALLOC_DM_OFFSET);

/// The driver's data for device memory.
pub(crate) struct Dm {
    pages: Arc<SharedPages>,
    mapping: UserMapping<Ucontext>,
    _counted: Counted,
}

impl Dm {
    /// A part of it, for a region.
    pub(crate) fn part(&self, offset: u64, length: u64) -> Result<Umem> {
        let (offset, length) = (usize::try_from(offset)?, usize::try_from(length)?);
        Umem::shared(self.pages.clone(), offset, length)
    }
}

#[vtable]
impl dm::Operations for Dm {
    type Device = Ferroce;

    fn alloc(
        dm: &NewDm<'_, Self>,
        length: u64,
        alignment: u32,
        call: &UserCall<'_, Ferroce>,
    ) -> Result<impl PinInit<Self, Error>> {
        // A process maps whole pages, wherever it likes.
        if length == 0 || length > limits::MAX_DM_SIZE || alignment > PAGE_SHIFT {
            return Err(EINVAL);
        }
        let counted = dm.device().quota.add(Kind::Dm)?;
        let flags = UserCall::flags(Some(call));
        let length = usize::try_from(length)?;
        let pages = match &dm.device().board {
            Some(board) => SharedPages::on_board(board.allocate(length)?)?,
            None => SharedPages::new(length, flags)?,
        };
        let pages = Arc::new(pages, flags)?;
        let mapping = UserMapping::new(call.ucontext(), pages.clone())?;
        Ok(try_init!(Dm {
            pages,
            mapping,
            _counted: counted,
        }? Error))
    }

    fn offset(&self) -> u64 {
        self.mapping.offset()
    }
}
