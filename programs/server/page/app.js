"use strict";
fetch("v1/models").then((r) => r.json()).then((models) => {
    document.getElementById("model").textContent = models.data[0].id;
});
