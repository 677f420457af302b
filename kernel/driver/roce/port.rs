// SPDX-License-Identifier: GPL-2.0

//! Port 4791 of each network namespace that has a device.
//!
//! All devices of a namespace share its sockets. They are closed with the last device there, or with
//! the namespace.

use super::{receive::Incoming, UDP_PORT};
use crate::{
    net::{Namespace, NamespaceEvents, UdpSocket},
    rdma::NetDevice,
};
use kernel::{
    prelude::*,
    revocable::Revocable,
    sync::{rcu, Arc},
};

/// The sockets of a namespace.
pub(crate) struct Sockets {
    v4: UdpSocket<Incoming>,
    /// `None` if the kernel was told to do without IPv6.
    v6: Option<UdpSocket<Incoming>>,
}

impl Sockets {
    fn open(netdev: &NetDevice) -> Result<Self> {
        let v4 = UdpSocket::open(netdev, false, UDP_PORT)?;
        let v6 = match UdpSocket::open(netdev, true, UDP_PORT) {
            Ok(socket) => Some(socket),
            Err(error) if error.to_errno() == -(kernel::bindings::EAFNOSUPPORT as i32) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6 })
    }

    /// The socket for a version of IP.
    pub(crate) fn of(&self, ipv6: bool) -> Option<&UdpSocket<Incoming>> {
        match ipv6 {
            true => self.v6.as_ref(),
            false => Some(&self.v4),
        }
    }
}

/// A namespace's port.
#[pin_data]
pub(crate) struct Port {
    namespace: Namespace,
    /// Revoked when the last device has left, or the namespace goes.
    #[pin]
    sockets: Revocable<Sockets>,
}

impl Port {
    /// The sockets, if they are there.
    pub(crate) fn sockets<'a>(&'a self, guard: &'a rcu::Guard) -> Option<&'a Sockets> {
        self.sockets.try_access_with_guard(guard)
    }
}

pub(crate) struct Entry {
    port: Arc<Port>,
    devices: usize,
    /// The namespace is gone, and another may be at its place.
    is_gone: bool,
}

kernel::sync::global_lock! {
    // SAFETY: The module's `init` initialises it before anything is registered.
    /// The ports that are open.
    pub(crate) unsafe(uninit) static PORTS: Mutex<KVec<Entry>> = KVec::new();
}

/// A device's share of its namespace's port.
pub(crate) struct Share(Arc<Port>);

impl Share {
    /// Of the namespace that a network device is in. `EADDRINUSE` if somebody else has the port there:
    /// rdma_rxe, say.
    pub(crate) fn of(netdev: &NetDevice) -> Result<Self> {
        let namespace = netdev.namespace().ok_or(ENODEV)?;
        let mut ports = PORTS.lock();
        let open = ports
            .iter_mut()
            .find(|entry| entry.port.namespace == namespace && !entry.is_gone);
        if let Some(entry) = open {
            entry.devices += 1;
            return Ok(Self(entry.port.clone()));
        }
        let sockets = Sockets::open(netdev)?;
        let port = Arc::pin_init(
            try_pin_init!(Port {
                namespace,
                sockets <- Revocable::new(sockets),
            }? Error),
            GFP_KERNEL,
        )?;
        let entry = Entry {
            port: port.clone(),
            devices: 1,
            is_gone: false,
        };
        ports.push(entry, GFP_KERNEL)?;
        Ok(Self(port))
    }

    /// Whether it is that of the namespace that a network device is in.
    pub(crate) fn is_of(&self, netdev: &NetDevice) -> bool {
        netdev.namespace() == Some(self.0.namespace)
    }

    /// The port.
    pub(crate) fn port(&self) -> Arc<Port> {
        self.0.clone()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut ports = PORTS.lock();
        let place = ports
            .iter()
            .position(|entry| Arc::ptr_eq(&entry.port, &self.0));
        let Some(entry) = place.and_then(|at| ports.get_mut(at)) else {
            return;
        };
        entry.devices -= 1;
        if entry.devices == 0 {
            // With the lock held: the next open finds it closed.
            self.0.sockets.revoke();
            let _ = place.map(|at| ports.remove(at));
            if ports.is_empty() {
                // A static is never dropped.
                *ports = KVec::new();
            }
        }
    }
}

/// Closes the ports of namespaces that go.
pub(crate) struct Namespaces;

impl NamespaceEvents for Namespaces {
    fn exit(namespace: Namespace) {
        let mut ports = PORTS.lock();
        let of_namespace = |entry: &&mut Entry| entry.port.namespace == namespace;
        for entry in ports.iter_mut().filter(of_namespace) {
            entry.is_gone = true;
            entry.port.sockets.revoke();
        }
    }
}
