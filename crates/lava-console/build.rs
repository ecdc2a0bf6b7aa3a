//! Builds anew when the page was built.

fn main() {
    println!("cargo:rerun-if-changed=../../web/dist");
}
