//! What the language cannot vouch for: the system calls that no crate wraps (a TUN's ioctls, and
//! datagrams by the batch), and what not every processor has. The only file with `unsafe` in it;
//! what it hands out cannot be used wrongly.
#![expect(
    unsafe_code,
    reason = "system calls that no crate wraps, and instructions that not every processor has"
)]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_uint, cmsghdr, iovec, mmsghdr, msghdr, sockaddr_storage};
use rustix::io::FdFlags;
use socket2::SockAddr;

use crate::buffer::Buffer;
use crate::packet::checksum::BLOCK;
use crate::sieve::Instruction;

/// Makes `tun` (an open /dev/net/tun) a queue of the device of that name. Says how the device is
/// called.
pub(crate) fn attach_queue(tun: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<String> {
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        // Signed on some processors, unsigned on others.
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = short(flags);
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(name_of(&request))
}

/// The device that a queue belongs to, and its flags.
pub(crate) fn queue_of(tun: BorrowedFd<'_>) -> io::Result<(String, c_int)> {
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) })?;
    // SAFETY: TUNGETIFF has filled in the flags, and any bits are a short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((
        name_of(&request),
        c_int::from(flags.cast_unsigned().cast_signed()),
    ))
}

pub(crate) fn set_persistent(tun: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    let persistent = c_int::from(persistent);
    // SAFETY: TUNSETPERSIST takes its argument by value.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, persistent) })?;
    Ok(())
}

/// Which superpackets the device may be given, and so may hand out.
pub(crate) fn set_offload(tun: BorrowedFd<'_>, features: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD as _, features) })?;
    Ok(())
}

pub(crate) fn set_vnet_header_size(tun: BorrowedFd<'_>, size: usize) -> io::Result<()> {
    let size = c_int::try_from(size).unwrap_or(c_int::MAX);
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    checked(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const size) })?;
    Ok(())
}

/// What whoever started this process has left open for it, from descriptor 3 on; None where
/// there is nothing of the kind. It is given away once.
pub(crate) fn left_open(count: usize) -> Vec<Option<OwnedFd>> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    if GIVEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let take = |fd: c_int| {
        // SAFETY: F_GETFD only reads flags, of a descriptor that need not be open.
        let flags = checked(unsafe { libc::fcntl(fd, libc::F_GETFD) }).ok()?;
        // What this process has opened itself would close at an exec.
        if flags & libc::FD_CLOEXEC != 0 {
            return None;
        }
        // SAFETY: the descriptor is open, came through the exec and so belongs to nobody in this
        // process, and is given away only here, once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).ok()?;
        Some(fd)
    };
    (3..).take(count).map(take).collect()
}

pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of an int that outlives the call.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size::<c_int>(),
        )
    })?;
    Ok(())
}

pub(crate) fn option(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size::<c_int>();
    // SAFETY: the pointer and the length are those of an int that outlives the call.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    })?;
    Ok(value)
}

/// From here on the socket's queue takes only what the program lets through.
pub(crate) fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let instruction = |of: &Instruction| libc::sock_filter {
        code: of.code,
        jt: of.jump_true,
        jf: of.jump_false,
        k: of.value,
    };
    let mut program: Vec<libc::sock_filter> = program.iter().map(instruction).collect();
    let whole = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the pointer and the length are those of a sock_fprog, whose own are those of a
    // vector; both outlive the call, which copies the instructions and checks them.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const whole).cast(),
            size::<libc::sock_fprog>(),
        )
    })?;
    Ok(())
}

/// How many datagrams the socket's queue has not taken: for a filter's sake, or for want of room.
pub(crate) fn drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const SO_MEMINFO: c_int = 55;
    const SK_MEMINFO_DROPS: usize = 8;
    let mut values = [0_u32; SK_MEMINFO_DROPS + 1];
    let mut length = size::<[u32; SK_MEMINFO_DROPS + 1]>();
    // SAFETY: the pointer and the length are those of an array that outlives the call, and any
    // bits are numbers.
    checked(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(values[SK_MEMINFO_DROPS])
}

/// The sum of the blocks' words of 32 bits, if this processor has AVX2. Each of the sixteen sums under
/// way holds 2^32 of them.
pub(crate) fn sum_by_avx2(blocks: &[[u8; BLOCK]]) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return Some(unsafe { avx2::sum(blocks) });
    }
    let _ = blocks;
    None
}

/// The same of blocks that are copied on the way, `to` as many as there are of both.
pub(crate) fn copy_and_sum_by_avx2(from: &[[u8; BLOCK]], to: &mut [[u8; BLOCK]]) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it.
        return Some(unsafe { avx2::copy_and_sum(from, to) });
    }
    let _ = (from, to);
    None
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
    };

    use super::BLOCK;

    #[target_feature(enable = "avx2")]
    pub(super) fn sum(blocks: &[[u8; BLOCK]]) -> u64 {
        let mut sums = Sums::new();
        for block in blocks {
            sums.add(load(block));
        }
        sums.total()
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn copy_and_sum(from: &[[u8; BLOCK]], to: &mut [[u8; BLOCK]]) -> u64 {
        let mut sums = Sums::new();
        for (from, to) in from.iter().zip(to) {
            let halves = load(from);
            store(halves, to);
            sums.add(halves);
        }
        sums.total()
    }

    /// Of the even and of the odd words of 32 bits, for each half of a block.
    struct Sums([__m256i; 4]);

    impl Sums {
        #[target_feature(enable = "avx2")]
        fn new() -> Self {
            Self([_mm256_setzero_si256(); 4])
        }

        #[target_feature(enable = "avx2")]
        fn add(&mut self, halves: [__m256i; 2]) {
            let low = _mm256_set1_epi64x(0xffff_ffff);
            for (sums, half) in self.0.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
                sums[0] = _mm256_add_epi64(sums[0], _mm256_and_si256(half, low));
                sums[1] = _mm256_add_epi64(sums[1], _mm256_srli_epi64::<32>(half));
            }
        }

        #[target_feature(enable = "avx2")]
        fn total(self) -> u64 {
            let [a, b, c, d] = self.0;
            let total = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
            let mut lanes = [0_u64; 4];
            // SAFETY: the lanes have as many bytes as the register, and need no alignment.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total) };
            lanes.iter().sum()
        }
    }

    #[target_feature(enable = "avx2")]
    fn load(block: &[u8; BLOCK]) -> [__m256i; 2] {
        let at = block.as_ptr();
        // SAFETY: both halves lie within the block, and need no alignment.
        unsafe {
            [
                _mm256_loadu_si256(at.cast()),
                _mm256_loadu_si256(at.add(BLOCK / 2).cast()),
            ]
        }
    }

    #[target_feature(enable = "avx2")]
    fn store(halves: [__m256i; 2], block: &mut [u8; BLOCK]) {
        let at = block.as_mut_ptr();
        // SAFETY: both halves lie within the block, and need no alignment.
        unsafe {
            _mm256_storeu_si256(at.cast(), halves[0]);
            _mm256_storeu_si256(at.add(BLOCK / 2).cast(), halves[1]);
        }
    }
}

/// How many messages one system call takes at most.
pub(crate) const MESSAGES: usize = 16;

/// Datagrams to one address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) to: &'a SockAddr,
    pub(crate) bytes: &'a [u8],
    /// The kernel cuts the bytes into datagrams of this size.
    pub(crate) segment: Option<u16>,
    /// The outer TOS or traffic class, if it is not 0.
    pub(crate) tos: u8,
}

/// Sends as many of the messages (of which the first [`MESSAGES`] are looked at) as the kernel
/// takes, and says how many those were. An error is the first message's.
pub(crate) fn send_many<'a>(
    socket: BorrowedFd<'_>,
    messages: impl IntoIterator<Item = Message<'a>>,
) -> io::Result<usize> {
    // SAFETY: all zeros are valid headers, of empty messages.
    let (mut headers, mut parts): ([mmsghdr; MESSAGES], [iovec; MESSAGES]) =
        unsafe { (zeroed(), zeroed()) };
    let mut controls = [Control::EMPTY; MESSAGES];
    let mut count: c_uint = 0;
    let places = headers.iter_mut().zip(&mut parts).zip(&mut controls);
    for (((header, part), control), message) in places.zip(messages) {
        header.msg_hdr = fill(&message, part, control);
        count += 1;
    }
    // SAFETY: the first `count` headers point to addresses and bytes that are borrowed for 'a,
    // and to parts and controls that live until this function returns. Sending only reads them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
    checked(sent).map(positive)
}

pub(crate) fn send_one(socket: BorrowedFd<'_>, message: &Message<'_>) -> io::Result<()> {
    let mut part = iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    };
    let mut control = Control::EMPTY;
    let header = fill(message, &mut part, &mut control);
    // SAFETY: the header points to what `message` borrows, and to a part and a control that live
    // until this function returns. Sending only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn fill(message: &Message<'_>, part: &mut iovec, control: &mut Control) -> msghdr {
    *part = iovec {
        iov_base: message.bytes.as_ptr().cast_mut().cast(),
        iov_len: message.bytes.len(),
    };
    let (level, kind) = match message.to.is_ipv6() {
        true => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        false => (libc::IPPROTO_IP, libc::IP_TOS),
    };
    let mut used = 0;
    if let Some(segment) = message.segment {
        used = control.put(used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    if message.tos != 0 {
        used = control.put(used, level, kind, c_int::from(message.tos));
    }
    // SAFETY: all zeros are a valid msghdr; some C libraries have padding fields in it.
    let mut header: msghdr = unsafe { zeroed() };
    header.msg_name = message.to.as_ptr().cast_mut().cast();
    header.msg_namelen = message.to.len();
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header.msg_control = match used {
        0 => ptr::null_mut(),
        _ => control.0.as_mut_ptr().cast(),
    };
    header.msg_controllen = used as _;
    header
}

/// Room for what a message carries beside its bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

impl Control {
    const EMPTY: Self = Self([0; 64]);

    /// Writes a control message behind the first `used` bytes, and says how many are used then.
    fn put<T: Copy>(&mut self, used: usize, level: c_int, kind: c_int, value: T) -> usize {
        // SAFETY: both only compute with the lengths of small values.
        let (length, space) = unsafe {
            (
                libc::CMSG_LEN(size::<T>()),
                libc::CMSG_SPACE(size::<T>()) as usize,
            )
        };
        let data = used + length as usize - size_of::<T>();
        if used + space > self.0.len() {
            return used;
        }
        // SAFETY: all zeros are a valid cmsghdr; some C libraries have padding fields in it.
        let mut header: cmsghdr = unsafe { zeroed() };
        header.cmsg_len = length as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        // SAFETY: `space` bytes from `used` on lie within the array, and hold the header and,
        // from `data` on, the value; unaligned writes ask for no alignment.
        unsafe {
            let at = self.0.as_mut_ptr();
            at.add(used).cast::<cmsghdr>().write_unaligned(header);
            at.add(data).cast::<T>().write_unaligned(value);
        }
        used + space
    }
}

/// Buffers for what one system call receives.
pub(crate) struct Inbox {
    bytes: Buffer,
    room: usize,
    arrivals: [Arrival; MESSAGES],
}

/// What is known of a receive beside its bytes.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    from: IpAddr,
    length: usize,
    segment: usize,
    tos: u8,
    cut_off: bool,
}

/// One or more datagrams from one address.
#[derive(Debug)]
pub(crate) struct Datagrams<'a> {
    pub(crate) from: IpAddr,
    pub(crate) bytes: &'a mut [u8],
    /// How long each datagram but the last is.
    pub(crate) segment: usize,
    /// The outer TOS or traffic class.
    pub(crate) tos: u8,
    /// The last datagram was longer than the buffer.
    pub(crate) cut_off: bool,
}

impl Inbox {
    /// For `count` receives at once, of at most [`MESSAGES`], with `room` bytes each.
    pub(crate) fn new(count: usize, room: usize) -> Self {
        let count = count.clamp(1, MESSAGES);
        Self {
            bytes: Buffer::new(count * room),
            room,
            arrivals: [Arrival::NONE; MESSAGES],
        }
    }

    /// Takes what lies ready, without waiting, in one system call. Says how many receives it was.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, many: bool) -> io::Result<usize> {
        // SAFETY: all zeros are valid headers, of empty messages, and valid empty addresses.
        let (mut headers, mut parts, mut names): (
            [mmsghdr; MESSAGES],
            [iovec; MESSAGES],
            [sockaddr_storage; MESSAGES],
        ) = unsafe { (zeroed(), zeroed(), zeroed()) };
        let mut controls = [Control::EMPTY; MESSAGES];
        let mut count: c_uint = 0;
        let places = headers.iter_mut().zip(&mut parts);
        let places = places.zip(names.iter_mut().zip(&mut controls));
        for (((header, part), (name, control)), buffer) in
            places.zip(self.bytes.chunks_exact_mut(self.room))
        {
            *part = iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            };
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = size::<sockaddr_storage>();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            count += 1;
        }
        let received = if many {
            // SAFETY: the first `count` headers point to distinct buffers, names and controls,
            // each with its length, which live until this function returns.
            let received = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    count,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut(),
                )
            };
            checked(received).map(positive)?
        } else {
            // SAFETY: as above, for the first header alone.
            let length = unsafe {
                libc::recvmsg(
                    socket.as_raw_fd(),
                    &raw mut headers[0].msg_hdr,
                    libc::MSG_DONTWAIT,
                )
            };
            if length < 0 {
                return Err(io::Error::last_os_error());
            }
            headers[0].msg_len = c_uint::try_from(length).unwrap_or(0);
            1
        };
        let arrivals = self.arrivals.iter_mut().zip(headers.iter().zip(&names));
        for (arrival, (header, name)) in arrivals.take(received) {
            *arrival = Arrival::of(header, name);
        }
        Ok(received)
    }

    /// The `i`th of the last system call's receives.
    pub(crate) fn datagrams(&mut self, i: usize) -> Datagrams<'_> {
        let arrival = self.arrivals[i];
        let at = i * self.room;
        Datagrams {
            from: arrival.from,
            bytes: &mut self.bytes[at..at + arrival.length.min(self.room)],
            segment: arrival.segment,
            tos: arrival.tos,
            cut_off: arrival.cut_off,
        }
    }
}

impl Arrival {
    const NONE: Self = Self {
        from: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        length: 0,
        segment: 0,
        tos: 0,
        cut_off: false,
    };

    fn of(header: &mmsghdr, name: &sockaddr_storage) -> Self {
        let length = header.msg_len as usize;
        let mut arrival = Self {
            from: address(name),
            length,
            segment: length,
            tos: 0,
            cut_off: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
        // SAFETY: the kernel has written whole control messages into the buffer that the header
        // still points to, and their length into the header.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header.msg_hdr) };
        while !next.is_null() {
            // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a whole control message.
            let (level, kind, data) =
                unsafe { ((*next).cmsg_level, (*next).cmsg_type, libc::CMSG_DATA(next)) };
            // SAFETY: the kernel writes an int for UDP_GRO and IPV6_TCLASS, a byte for IP_TOS.
            unsafe {
                match (level, kind) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        arrival.segment = positive(data.cast::<c_int>().read_unaligned());
                    }
                    (libc::IPPROTO_IP, libc::IP_TOS) => arrival.tos = *data,
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        let class = data.cast::<c_int>().read_unaligned();
                        arrival.tos = u8::try_from(class).unwrap_or(0);
                    }
                    _ => (),
                }
                next = libc::CMSG_NXTHDR(&raw const header.msg_hdr, next);
            }
        }
        arrival
    }
}

fn address(name: &sockaddr_storage) -> IpAddr {
    let at: *const sockaddr_storage = name;
    match c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is aligned for, and at least as long as, a sockaddr_in,
            // which the family says it is; any bits are an address.
            let name = unsafe { &*at.cast::<libc::sockaddr_in>() };
            Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes()).into()
        }
        libc::AF_INET6 => {
            // SAFETY: the same for a sockaddr_in6.
            let name = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            IpAddr::V6(Ipv6Addr::from(name.sin6_addr.s6_addr)).to_canonical()
        }
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|byte| byte.to_ne_bytes()[0]);
    let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn checked(result: c_int) -> io::Result<c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn positive(count: c_int) -> usize {
    usize::try_from(count).unwrap_or(0)
}

fn short(flags: c_int) -> libc::c_short {
    libc::c_short::try_from(flags).unwrap_or(0)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the sizes of small structures"
)]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}
