//! A reserved slot of the ring is good for one request.
use p2m_paging::ring::{Claim, Front, Request};

fn twice(front: &mut Front, claim: Claim, request: &Request) {
    let _ = front.push(claim, request);
    let _ = front.push(claim, request);
}

fn main() {}
