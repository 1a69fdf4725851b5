(() => {
  const gallery = document.querySelector(".gallery"), dialog = document.querySelector("dialog");
  const big = dialog.querySelector("img"), text = dialog.querySelector("p");
  let list = [], at = 0;
  const show = (i) => {
    at = (i + list.length) % list.length;
    big.src = list[at].src;
    big.style.maxWidth = big.style.maxHeight = list[at].naturalWidth * 10 + "px";
    text.textContent = list[at].alt;
  };
  document.querySelectorAll("img[data-zoom]").forEach((img) => img.addEventListener("click", () => {
    const inside = gallery && gallery.contains(img);
    list = [...document.querySelectorAll("img[data-zoom]")].filter((other) => (gallery && gallery.contains(other)) === inside);
    show(list.indexOf(img));
    dialog.showModal();
  }));
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(at + 1);
    if (event.key === "ArrowLeft") show(at - 1);
  });
  document.querySelectorAll("button[data-order]").forEach((button) => button.addEventListener("click", () => {
    const name = button.dataset.order;
    [...gallery.children].sort((a, b) => a.dataset[name] - b.dataset[name]).forEach((card) => gallery.append(card));
    document.querySelectorAll("button[data-order]").forEach((b) => b.setAttribute("aria-pressed", b === button));
  }));
  // The baseline lies over the winner as far as the slider says; the file holds each picture once.
  document.querySelectorAll(".slide").forEach((slide) => {
    const own = slide.parentElement.querySelector("img"), other = document.querySelector(".shot.base img"), input = slide.querySelector("input");
    if (!own || !other) return;
    const under = document.createElement("div"), over = new Image();
    under.className = "under";
    own.replaceWith(under);
    over.className = "over";
    over.alt = "";
    over.src = other.src;
    under.append(own, over);
    const move = () => { over.style.clipPath = `inset(0 0 0 ${input.value}%)`; };
    input.addEventListener("input", move);
    move();
    slide.hidden = false;
  });
  document.querySelectorAll(".key span[data-line]").forEach((word) => ["mouseenter", "mouseleave"].forEach((event) => word.addEventListener(event, () => {
    const card = word.closest("figure"), on = event === "mouseenter";
    card.classList.toggle("dim", on);
    card.querySelectorAll("[data-line]").forEach((one) => one.classList.toggle("on", on && one.dataset.line === word.dataset.line));
  })));
})();
