// SPDX-License-Identifier: GPL-2.0

//! Enumerations of [`include/rdma/ib_verbs.h`] as Rust types: those of devices and ports.
//!
//! [`include/rdma/ib_verbs.h`]: srctree/include/rdma/ib_verbs.h

use super::bindings;

c_enum! {
    /// Link layer of a port.
    LinkLayer: u32 {
        Unspecified = rdma_link_layer_IB_LINK_LAYER_UNSPECIFIED,
        Infiniband = rdma_link_layer_IB_LINK_LAYER_INFINIBAND,
        Ethernet = rdma_link_layer_IB_LINK_LAYER_ETHERNET,
    }
}

c_enum! {
    /// Logical state of a port.
    PortState: u32 {
        Down = ib_port_state_IB_PORT_DOWN,
        Init = ib_port_state_IB_PORT_INIT,
        Armed = ib_port_state_IB_PORT_ARMED,
        Active = ib_port_state_IB_PORT_ACTIVE,
        ActiveDefer = ib_port_state_IB_PORT_ACTIVE_DEFER,
    }
}

c_enum! {
    /// Physical state of a port.
    PhysState: u32 {
        Sleep = ib_port_phys_state_IB_PORT_PHYS_STATE_SLEEP,
        Polling = ib_port_phys_state_IB_PORT_PHYS_STATE_POLLING,
        Disabled = ib_port_phys_state_IB_PORT_PHYS_STATE_DISABLED,
        LinkUp = ib_port_phys_state_IB_PORT_PHYS_STATE_LINK_UP,
    }
}

c_enum! {
    /// Length of a packet's payload at most, in the values that there are.
    Mtu: u32 {
        Mtu256 = ib_mtu_IB_MTU_256,
        Mtu512 = ib_mtu_IB_MTU_512,
        Mtu1024 = ib_mtu_IB_MTU_1024,
        Mtu2048 = ib_mtu_IB_MTU_2048,
        Mtu4096 = ib_mtu_IB_MTU_4096,
    }
}

impl Mtu {
    /// In bytes.
    pub const fn bytes(self) -> u32 {
        128 << self.as_raw()
    }

    /// The largest that is at most `bytes`, if there is one.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            4096.. => Some(Self::Mtu4096),
            2048.. => Some(Self::Mtu2048),
            1024.. => Some(Self::Mtu1024),
            512.. => Some(Self::Mtu512),
            256.. => Some(Self::Mtu256),
            _ => None,
        }
    }
}

c_enum! {
    /// Number of lanes of a port's link.
    Width: u32 {
        X1 = ib_port_width_IB_WIDTH_1X,
        X2 = ib_port_width_IB_WIDTH_2X,
        X4 = ib_port_width_IB_WIDTH_4X,
        X8 = ib_port_width_IB_WIDTH_8X,
        X12 = ib_port_width_IB_WIDTH_12X,
    }
}

c_enum! {
    /// Rate of one lane of a port's link.
    Speed: u32 {
        /// 2.5 Gbit/s
        Sdr = ib_port_speed_IB_SPEED_SDR,
        /// 5 Gbit/s
        Ddr = ib_port_speed_IB_SPEED_DDR,
        /// 10 Gbit/s
        Qdr = ib_port_speed_IB_SPEED_QDR,
        /// 14 Gbit/s
        Fdr = ib_port_speed_IB_SPEED_FDR,
        /// 25 Gbit/s
        Edr = ib_port_speed_IB_SPEED_EDR,
        /// 50 Gbit/s
        Hdr = ib_port_speed_IB_SPEED_HDR,
        /// 100 Gbit/s
        Ndr = ib_port_speed_IB_SPEED_NDR,
        /// 200 Gbit/s
        Xdr = ib_port_speed_IB_SPEED_XDR,
    }
}

c_enum! {
    /// Type of a GID. Tells how packets with it look on the wire.
    GidType: u32 {
        Ib = ib_gid_type_IB_GID_TYPE_IB,
        RoceV1 = ib_gid_type_IB_GID_TYPE_ROCE,
        RoceV2 = ib_gid_type_IB_GID_TYPE_ROCE_UDP_ENCAP,
    }
}

c_enum! {
    /// What a packet has for a network layer.
    NetworkType: u32 {
        Ib = rdma_network_type_RDMA_NETWORK_IB,
        RoceV1 = rdma_network_type_RDMA_NETWORK_ROCE_V1,
        Ipv4 = rdma_network_type_RDMA_NETWORK_IPV4,
        Ipv6 = rdma_network_type_RDMA_NETWORK_IPV6,
    }
}

c_enum! {
    /// What atomic operations of a device are atomic with respect to.
    AtomicCap: u32 {
        /// There are none.
        None = ib_atomic_cap_IB_ATOMIC_NONE,
        /// Others of the same device.
        Hca = ib_atomic_cap_IB_ATOMIC_HCA,
        /// All others, those of the CPU as well.
        Global = ib_atomic_cap_IB_ATOMIC_GLOB,
    }
}

c_flags! {
    /// What a device can do (`IB_DEVICE_*`).
    DeviceCaps: u64 {
        BAD_PKEY_CNTR = ib_device_cap_flags_IB_DEVICE_BAD_PKEY_CNTR,
        BAD_QKEY_CNTR = ib_device_cap_flags_IB_DEVICE_BAD_QKEY_CNTR,
        CHANGE_PHY_PORT = ib_device_cap_flags_IB_DEVICE_CHANGE_PHY_PORT,
        PORT_ACTIVE_EVENT = ib_device_cap_flags_IB_DEVICE_PORT_ACTIVE_EVENT,
        SYS_IMAGE_GUID = ib_device_cap_flags_IB_DEVICE_SYS_IMAGE_GUID,
        RC_RNR_NAK_GEN = ib_device_cap_flags_IB_DEVICE_RC_RNR_NAK_GEN,
        SRQ_RESIZE = ib_device_cap_flags_IB_DEVICE_SRQ_RESIZE,
        MEM_WINDOW = ib_device_cap_flags_IB_DEVICE_MEM_WINDOW,
        MEM_MGT_EXTENSIONS = ib_device_cap_flags_IB_DEVICE_MEM_MGT_EXTENSIONS,
        MEM_WINDOW_TYPE_2B = ib_device_cap_flags_IB_DEVICE_MEM_WINDOW_TYPE_2B,
        /// A peer may FLUSH to global visibility.
        FLUSH_GLOBAL = ib_device_cap_flags_IB_DEVICE_FLUSH_GLOBAL,
        /// A peer may FLUSH to persistence.
        FLUSH_PERSISTENT = ib_device_cap_flags_IB_DEVICE_FLUSH_PERSISTENT,
        ATOMIC_WRITE = ib_device_cap_flags_IB_DEVICE_ATOMIC_WRITE,
    }
}

c_flags! {
    /// What a device can do for the kernel (`IBK_*`).
    KernelCaps {
        /// `local_dma_lkey` may be used without a memory region.
        LOCAL_DMA_LKEY = ib_kernel_cap_flags_IBK_LOCAL_DMA_LKEY,
        /// On-demand paging.
        ON_DEMAND_PAGING = ib_kernel_cap_flags_IBK_ON_DEMAND_PAGING,
        /// `rdma link delete` may unregister the device.
        ALLOW_USER_UNREG = ib_kernel_cap_flags_IBK_ALLOW_USER_UNREG,
    }
}

c_flags! {
    /// Whether memory can be had on demand.
    OdpCaps {
        SUPPORT = ib_odp_general_cap_bits_IB_ODP_SUPPORT,
        /// A region may be all of a process's memory.
        IMPLICIT = ib_odp_general_cap_bits_IB_ODP_SUPPORT_IMPLICIT,
    }
}

c_flags! {
    /// What memory had on demand may be used for, by transport.
    OdpTransportCaps {
        SEND = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SEND,
        RECV = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_RECV,
        WRITE = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_WRITE,
        READ = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_READ,
        ATOMIC = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_ATOMIC,
        SRQ_RECV = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SRQ_RECV,
        FLUSH = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_FLUSH,
        ATOMIC_WRITE = ib_odp_transport_cap_bits_IB_ODP_SUPPORT_ATOMIC_WRITE,
    }
}

c_flags! {
    /// What a port can do (IBTA 14.2.5.6, PortInfo CapabilityMask).
    PortCaps {
        /// Communication management.
        CM_SUP = ib_uverbs_query_port_cap_flags_IB_UVERBS_PCF_CM_SUP,
    }
}

c_flags! {
    /// What a port can do, and needs, for the RDMA core (`RDMA_CORE_CAP_*`).
    PortCoreCaps {
        /// RoCE v2.
        PROT_ROCE_UDP_ENCAP = RDMA_CORE_CAP_PROT_ROCE_UDP_ENCAP,
        /// RoCE v1.
        PROT_ROCE = RDMA_CORE_CAP_PROT_ROCE,
        /// Management datagrams; `max_mad_size` must be set.
        IB_MAD = RDMA_CORE_CAP_IB_MAD,
        /// The InfiniBand connection manager.
        IB_CM = RDMA_CORE_CAP_IB_CM,
        /// Addresses of the family `AF_IB`.
        AF_IB = RDMA_CORE_CAP_AF_IB,
        /// Address handles with Ethernet addresses.
        ETH_AH = RDMA_CORE_CAP_ETH_AH,
        /// All that RoCE v2 with connection management takes.
        IBA_ROCE_UDP_ENCAP = RDMA_CORE_PORT_IBA_ROCE_UDP_ENCAP,
    }
}
